/* opts.h - one option table drives the command line, recipe keys, --help and the resolved recipe.
 *
 * A table is an array of zb_opt ended by {0}; each row names a field of a plain struct by offset.
 * Names are written with underscores (recipe keys); the command line also takes dashes. Groups join
 * several tables into one command. String values are copied into the arena. Lists (layers, lengths)
 * are strings of comma-separated items; a YAML list of scalars becomes one. */
#ifndef ZB_BASE_OPTS_H
#define ZB_BASE_OPTS_H

#include "base/yaml.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum zb_opt_type {
    ZB_OPT_END,
    ZB_OPT_BOOL,   /* bool; on the command line `--x`, `--no-x` or `--x=true` */
    ZB_OPT_INT,    /* int64_t */
    ZB_OPT_F64,    /* double */
    ZB_OPT_STR,    /* const char *; NULL when the default is NULL and nothing was given */
    ZB_OPT_CHOICE, /* const char *, one of `choices` separated by '|' */
} zb_opt_type;

typedef struct zb_opt {
    zb_opt_type type;
    const char *name;
    char letter; /* 0: none */
    size_t offset;
    const char *def; /* default as text; NULL: zero */
    double min, max; /* numbers; both 0: no bound */
    const char *choices;
    const char *help; /* one line; what it means, with its unit */
} zb_opt;

typedef struct zb_opt_group {
    const char *title; /* heading in --help */
    const zb_opt *table;
    void *dst;
} zb_opt_group;

/* A list of groups ends with a NULL table. */
void zb_opts_defaults(const zb_opt_group *g);

/* Sets one option from text; `where` starts the message ("recipe.yaml:12"). Unknown names list the
 * nearest. */
zb_status zb_opts_set(const zb_opt_group *g, const char *name, const char *value, const char *where,
                      zb_arena *a, zb_err *err);

/* Parses argv[1..]; what is no option goes to pos (at most pos_max, count in *n_pos). "--" ends
 * options. */
zb_status zb_opts_argv(const zb_opt_group *g, int argc, char **argv, const char **pos, int pos_max,
                       int *n_pos, zb_arena *a, zb_err *err);

/* Sets the option that the node's key names. Lists of scalars are joined by commas; a null is
 * refused, since a default is asked for by leaving the key out. */
zb_status zb_opts_node(const zb_opt_group *g, const zb_yaml *node, const char *file, zb_arena *a,
                       zb_err *err);

/* Every key of the map must be an option. */
zb_status zb_opts_yaml(const zb_opt_group *g, const zb_yaml *map, const char *file, zb_arena *a,
                       zb_err *err);

/* Options and letters that an earlier group has are left out: the parser takes the earlier. */
void zb_opts_help(const zb_opt_group *g, FILE *out);
json_t *zb_opts_json(const zb_opt_group *g);         /* resolved values, by name */
json_t *zb_opts_default_json(const zb_opt_group *g); /* what they would be with nothing set */
/* The first option that had another value when `old` was written, as "lr was 0.1, is 0.2"; NULL:
 * none had. One that `old` lacks is of a later version, and had its default. */
const char *zb_opts_change(const json_t *old, const json_t *now, const json_t *defaults,
                           zb_arena *a);

/* "0,5,11" -> ints; at most max; every value in [lo, hi]. `what` names the option in messages. */
zb_status zb_list_ints(const char *list, const char *what, int lo, int hi, int *out, int max,
                       int *n, zb_err *err);
/* Splits "a,b" into the arena. */
char **zb_list_split(const char *list, zb_arena *a, int *n);

#endif
