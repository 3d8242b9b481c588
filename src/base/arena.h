/* arena.h - memory by lifetime.
 *
 * An arena is a list of blocks handed out from the front; everything in it is freed at once.
 * A function that allocates takes a `zb_arena *`, and whoever passes it owns the result. Marks give
 * stack discipline inside one arena (a training step takes a mark and pops it). Memory is 64-byte
 * aligned and zeroed. Sizes that come from a file must be checked against the file's own size
 * before they are allocated; running out of address space afterwards is fatal by design, since
 * plans are printed and refused before work starts. An arena belongs to one thread at a time. */
#ifndef ZB_BASE_ARENA_H
#define ZB_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct zb_arena_block zb_arena_block;

typedef struct zb_arena {
    zb_arena_block *last; /* newest block; NULL in an empty arena, so `{0}` is a valid arena */
    size_t bytes;         /* handed out and not popped */
    size_t peak;
} zb_arena;

typedef struct zb_mark {
    zb_arena_block *block;
    size_t used, bytes;
} zb_mark;

/* Gives an empty arena one block of address space that takes memory only as it is touched, so that
 * a loop of passes settles on the same pages and asks the system for nothing. Takes less where
 * address space is limited. */
void zb_arena_reserve(zb_arena *a, size_t bytes);

void *zb_alloc(zb_arena *a, size_t bytes);                /* zeroed, 64-byte aligned, never NULL */
void *zb_alloc_array(zb_arena *a, size_t n, size_t size); /* n * size, overflow-checked */
/* The same with whatever the memory held before: for rows that are written whole before they are
 * read. */
void *zb_alloc_raw(zb_arena *a, size_t bytes);
void *zb_alloc_raw_array(zb_arena *a, size_t n, size_t size);
char *zb_strdup(zb_arena *a, const char *s);
char *zb_strndup(zb_arena *a, const char *s, size_t n);
char *zb_asprintf(zb_arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define ZB_NEW(arena, type) ((type *)zb_alloc((arena), sizeof(type)))
#define ZB_NEW_ARRAY(arena, type, n) ((type *)zb_alloc_array((arena), (size_t)(n), sizeof(type)))
#define ZB_RAW_ARRAY(arena, type, n)                                                               \
    ((type *)zb_alloc_raw_array((arena), (size_t)(n), sizeof(type)))

/* Grows *items (element size `size`, capacity *cap) to hold at least n; old content is kept, the
 * old memory stays in the arena until it is popped. Doubles, so appending is amortised O(1). */
void *zb_grow(zb_arena *a, void *items, size_t *cap, size_t n, size_t size);

zb_mark zb_arena_mark(const zb_arena *a);
void zb_arena_pop(zb_arena *a, zb_mark m); /* frees all that came after the mark */
void zb_arena_free(zb_arena *a);           /* frees all; the arena can be used again */

/* For growable buffers whose size is not known and which live outside arenas (base/text.c). */
void *zb_heap_resize(void *p, size_t bytes); /* never NULL for bytes > 0; bytes 0 frees */

/* *out = a * b; false on overflow. */
bool zb_size_mul(size_t a, size_t b, size_t *out);

uint64_t
zb_heap_count(void); /* blocks obtained from the system so far: tests prove hot loops take none */

#endif
