/* arena.c - the only file that calls the allocator (contract in arena.h).
 *
 * A block is a header followed by its payload. Popping keeps one spare block per arena, so that a
 * loop of mark, allocate, pop settles on memory it already has and asks the system for nothing. */
#include "base/arena.h"

#include "base/err.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGN = 64, BLOCK_MIN = 1 << 20, BLOCK_MAX = 1 << 26, PAGE = 1 << 12, LARGE = 1 << 22 };

struct zb_arena_block {
    zb_arena_block *prev, *spare; /* spare: a popped block kept for the next allocation */
    size_t used, cap;
    size_t mapped; /* bytes of the mapping, 0: from the allocator */
    char pad[ALIGN - 5 * sizeof(size_t)];
    char data[];
};

static atomic_uint_fast64_t heap_blocks;

uint64_t zb_heap_count(void) { return atomic_load(&heap_blocks); }

static _Noreturn void out_of_memory(size_t bytes) {
    fprintf(stderr, "zebra: out of memory while asking for %zu bytes\n", bytes);
    abort();
}

/* Weights, gradients and moments are read across rows, too, which small pages slow by a quarter and
 * more. */
static void ask_for_large_pages(void *p, size_t bytes) {
    if (bytes < LARGE) return;
    uintptr_t at = ((uintptr_t)p + PAGE - 1) / PAGE * PAGE,
              end = ((uintptr_t)p + bytes) / PAGE * PAGE;
    madvise((void *)at, end - at, MADV_HUGEPAGE);
}

static zb_arena_block *block_new(size_t cap) {
    size_t total = sizeof(zb_arena_block) + cap;
    total = (total + ALIGN - 1) / ALIGN * ALIGN;
    zb_arena_block *b = aligned_alloc(ALIGN, total);
    if (!b) out_of_memory(total);
    ask_for_large_pages(b, total);
    atomic_fetch_add(&heap_blocks, 1);
    b->prev = b->spare = NULL;
    b->used = b->mapped = 0;
    b->cap = cap;
    return b;
}

static void block_free(zb_arena_block *b) {
    if (b && b->mapped)
        munmap(b, b->mapped);
    else
        free(b);
}

void zb_arena_reserve(zb_arena *a, size_t bytes) {
    ZB_ASSERT(!a->last);
    for (; bytes >= BLOCK_MIN; bytes /= 2) { /* address space may be limited: take what there is */
        zb_arena_block *b = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (b == MAP_FAILED) continue;
        ask_for_large_pages(b, bytes);
        b->mapped = bytes;
        b->cap = bytes - sizeof *b;
        a->last = b;
        return;
    }
}

/* Grows with the arena, so that one of many weights consists of large pages, too. What is not
 * touched takes no memory. */
static size_t block_size(const zb_arena *a, size_t need) {
    size_t grown = a->bytes / 2 < BLOCK_MAX ? a->bytes / 2 : BLOCK_MAX;
    size_t least = grown > BLOCK_MIN ? grown : BLOCK_MIN;
    return need > least ? need : least;
}

static void push_block(zb_arena *a, size_t need) {
    zb_arena_block *spare = a->last ? a->last->spare : NULL;
    if (spare && spare->cap < need) {
        free(spare);
        a->last->spare = spare = NULL;
    }
    zb_arena_block *b = spare ? spare : block_new(block_size(a, need));
    if (a->last) a->last->spare = NULL;
    b->prev = a->last;
    b->spare = NULL;
    b->used = 0;
    a->last = b;
}

static size_t whole_lines(size_t bytes) {
    if (bytes > SIZE_MAX / 2) out_of_memory(bytes);
    return bytes ? (bytes + ALIGN - 1) / ALIGN * ALIGN : ALIGN;
}

void *zb_alloc_raw(zb_arena *a, size_t bytes) {
    size_t need = whole_lines(bytes);
    if (!a->last || a->last->cap - a->last->used < need) push_block(a, need);
    void *p = a->last->data + a->last->used;
    a->last->used += need;
    a->bytes += need;
    if (a->bytes > a->peak) a->peak = a->bytes;
    return p;
}

void *zb_alloc(zb_arena *a, size_t bytes) {
    return memset(zb_alloc_raw(a, bytes), 0, whole_lines(bytes));
}

bool zb_size_mul(size_t x, size_t y, size_t *out) { return !__builtin_mul_overflow(x, y, out); }

void *zb_alloc_array(zb_arena *a, size_t n, size_t size) {
    size_t bytes;
    if (!zb_size_mul(n, size, &bytes)) out_of_memory(SIZE_MAX);
    return zb_alloc(a, bytes);
}

void *zb_alloc_raw_array(zb_arena *a, size_t n, size_t size) {
    size_t bytes;
    if (!zb_size_mul(n, size, &bytes)) out_of_memory(SIZE_MAX);
    return zb_alloc_raw(a, bytes);
}

char *zb_strndup(zb_arena *a, const char *s, size_t n) {
    char *p = zb_alloc(a, n + 1);
    memcpy(p, s, n);
    return p;
}

char *zb_strdup(zb_arena *a, const char *s) { return zb_strndup(a, s, strlen(s)); }

char *zb_asprintf(zb_arena *a, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    ZB_ASSERT(n >= 0);
    char *p = zb_alloc(a, (size_t)n + 1);
    vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

void *zb_grow(zb_arena *a, void *items, size_t *cap, size_t n, size_t size) {
    if (n <= *cap) return items;
    size_t want = *cap * 2 > n ? *cap * 2 : n;
    if (want < 16) want = 16;
    void *p = zb_alloc_array(a, want, size);
    if (items) memcpy(p, items, *cap * size);
    *cap = want;
    return p;
}

zb_mark zb_arena_mark(const zb_arena *a) {
    return (zb_mark){a->last, a->last ? a->last->used : 0, a->bytes};
}

/* Frees the newest block, or keeps it as the spare of the one below when it is the larger of the
 * two. */
static void pop_block(zb_arena *a) {
    zb_arena_block *b = a->last, *prev = b->prev;
    if (!prev) {
        block_free(b->spare);
        block_free(b);
    } else {
        zb_arena_block *keep = b, *drop = b->spare;
        if (drop && drop->cap > keep->cap) keep = b->spare, drop = b;
        block_free(drop);
        keep->spare = NULL;
        if (prev->spare && prev->spare->cap >= keep->cap) {
            block_free(keep);
        } else {
            block_free(prev->spare);
            prev->spare = keep;
        }
    }
    a->last = prev;
}

void zb_arena_pop(zb_arena *a, zb_mark m) {
    while (a->last != m.block) pop_block(a);
    if (a->last) a->last->used = m.used;
    a->bytes = m.bytes;
}

void zb_arena_free(zb_arena *a) {
    while (a->last) pop_block(a);
    a->bytes = 0;
}

void *zb_heap_resize(void *p, size_t bytes) {
    if (bytes == 0) {
        free(p);
        return NULL;
    }
    void *q = realloc(p, bytes);
    if (!q) out_of_memory(bytes);
    atomic_fetch_add(&heap_blocks, 1);
    return q;
}
