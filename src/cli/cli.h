/* cli.h - what every command shares: the common options, error lines, exit statuses.
 *
 * A command is one file cmd_<name>.c with one function `int zb_cmd_<name>(int argc, char **argv)`
 * (argv[0] is the command's name) and one row in main.c. It calls zb_cli_begin with its option
 * groups, works, and returns zb_cli_end(&cli, status). Only this folder exits or writes to stdout;
 * notes and progress go to stderr through base/log.h. */
#ifndef ZB_CLI_CLI_H
#define ZB_CLI_CLI_H

#include "base/arena.h"
#include "base/err.h"
#include "base/opts.h"
#include "format/tokenizer.h"
#include "model/cells.h"
#include "zebra.h"

#include <stdbool.h>

enum { ZB_CLI_POS_MAX = 256 };

typedef struct zb_cli {
    const char *name;
    zb_arena arena; /* of the command: option values, whatever it likes */
    zb_err err;     /* pass &cli.err down */
    bool help, version, quiet, verbose;
    int64_t threads; /* 0: all processors; already set for OpenMP */
    /* Of zb_cli_engine: set before it by commands that have these options; NULL: the engine's
     * default. */
    const char *precision, *cache_type;
    const char *pos[ZB_CLI_POS_MAX]; /* arguments that are no options */
    int n_pos;
} zb_cli;

/* Row of an option table: matrix products of a command that runs a model. */
#define ZB_CLI_PRECISION_OPTION(type, field)                                                       \
    {                                                                                              \
        ZB_OPT_CHOICE, "precision", 0, offsetof(type, field), "auto", 0, 0, "auto|f32|bf16|int8",  \
            "matrix products; auto: int8 for quantised weights, else bf16 where the processor "    \
            "has it"                                                                               \
    }

/* What `--help` says above the options. */
typedef struct zb_cli_about {
    const char *usage;   /* "-m MODEL -p PROMPT [options]" */
    const char *summary; /* one sentence */
    const char *more;    /* further lines below the options; NULL: none */
} zb_cli_about;

/* Parses the command line into `groups` (ended by a NULL table; the common options are added), at
 * most pos_max other arguments. False: the command is done (help, version or a usage error, already
 * printed) and returns *status. */
bool zb_cli_begin(zb_cli *cli, int argc, char **argv, const zb_opt_group *groups, int pos_max,
                  const zb_cli_about *about, int *status);

/* Prints the error of `s` as one line, frees the arena, returns the exit status. */
int zb_cli_end(zb_cli *cli, zb_status s);

/* ZB_ERR_USAGE unless `value` is given; `flag` is how the user writes it ("-m MODEL"). */
zb_status zb_cli_need(zb_cli *cli, const char *value, const char *flag);

/* Text from one of: an argument, a file ("-": stdin), or stdin where it is no terminal. Bounded;
 * errors name the source. */
zb_status zb_cli_text(zb_cli *cli, const char *text, const char *file, const char **out, size_t *n);

/* "1,2,3" as token ids below `vocab`, at least one. */
zb_status zb_cli_ids(zb_cli *cli, const char *list, const char *flag, int vocab, zb_ids *out);

/* Opens `model` (NULL: a usage error that asks for -m) with cli's threads, precision and cache
 * type; `context` as in zb_engine_opts. */
zb_status zb_cli_engine(zb_cli *cli, const char *model, int64_t context, zb_engine **out);

/* Writes to stdout and flushes; a closed pipe is ZB_ERR_IO. */
zb_status zb_cli_print(zb_cli *cli, const char *bytes, size_t n);
zb_status zb_cli_print_json(zb_cli *cli, json_t *value,
                            bool indent); /* steals value; ends the line */

/* Bytes as a JSON string; what is no UTF-8 becomes U+FFFD. A token's text; null where only the
 * embedding has the id. */
json_t *zb_cli_json_text(zb_str text);
json_t *zb_cli_piece(const zb_tokenizer *t, int32_t id);

int zb_cmd_pipeline(int argc, char **argv);
int zb_cmd_compose(int argc, char **argv);
int zb_cmd_align(int argc, char **argv);
int zb_cmd_select(int argc, char **argv);
int zb_cmd_distill(int argc, char **argv);
int zb_cmd_tune(int argc, char **argv);
int zb_cmd_prune(int argc, char **argv);
int zb_cmd_quantize(int argc, char **argv);
int zb_cmd_eval(int argc, char **argv);
int zb_cmd_recall(int argc, char **argv);
int zb_cmd_report(int argc, char **argv);
int zb_cmd_tokenize(int argc, char **argv);
int zb_cmd_generate(int argc, char **argv);
int zb_cmd_chat(int argc, char **argv);
int zb_cmd_score(int argc, char **argv);
int zb_cmd_inspect(int argc, char **argv);
int zb_cmd_bench(int argc, char **argv);

#endif
