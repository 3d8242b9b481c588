/* cli.c - common options, errors and text in and out of the commands (contract in cli.h). */
#include "cli/cli.h"

#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { GROUPS_MAX = 16, THREADS_MAX = 1024 };
static const size_t text_max = (size_t)1 << 30;

static const zb_opt common[] = {
    {ZB_OPT_BOOL, "help", 'h', offsetof(zb_cli, help), NULL, 0, 0, NULL, "print this text"},
    {ZB_OPT_BOOL, "version", 0, offsetof(zb_cli, version), NULL, 0, 0, NULL, "print the version"},
    {ZB_OPT_INT, "threads", 't', offsetof(zb_cli, threads), NULL, 0, THREADS_MAX, NULL,
     "threads; 0: one per processor"},
    {ZB_OPT_BOOL, "quiet", 'q', offsetof(zb_cli, quiet), NULL, 0, 0, NULL, "errors only"},
    {ZB_OPT_BOOL, "verbose", 'v', offsetof(zb_cli, verbose), NULL, 0, 0, NULL, "say more"},
    {0},
};

static void print_help(const zb_cli *cli, const zb_opt_group *groups, const zb_cli_about *about) {
    printf("usage: zebra %s %s\n\n%s\n", cli->name, about->usage, about->summary);
    zb_opts_help(groups, stdout);
    if (about->more) printf("\n%s\n", about->more);
    printf("\nExit status: 0 if all went well; `zebra --help` lists the others.\n");
}

/* Asking for help or the version wins over every other mistake on the line. */
static bool asks_for(int argc, char **argv, const char *flag, const char *letter) {
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (!strcmp(argv[i], flag) || (letter && !strcmp(argv[i], letter))) return true;
    return false;
}

bool zb_cli_begin(zb_cli *cli, int argc, char **argv, const zb_opt_group *groups, int pos_max,
                  const zb_cli_about *about, int *status) {
    *cli = (zb_cli){.name = argv[0]};
    zb_opt_group all[GROUPS_MAX] = {{0}};
    int n = 0;
    for (; groups[n].table; n++) {
        ZB_ASSERT(n < GROUPS_MAX - 2);
        all[n] = groups[n];
    }
    all[n] = (zb_opt_group){"common options", common, cli};
    zb_opts_defaults(all);
    *status = 0;
    bool help = asks_for(argc, argv, "--help", "-h");
    if (help || asks_for(argc, argv, "--version", NULL)) {
        if (help)
            print_help(cli, all, about);
        else
            printf("zebra %s\n", ZB_VERSION);
        *status = zb_cli_end(cli, ZB_OK);
        return false;
    }
    ZB_ASSERT(pos_max <= ZB_CLI_POS_MAX);
    if (zb_opts_argv(all, argc, argv, cli->pos, pos_max, &cli->n_pos, &cli->arena, &cli->err) !=
        ZB_OK) {
        *status =
            zb_cli_end(cli, ZB_ERR_USAGE); /* any mistake on the command line is one of usage */
        return false;
    }
    zb_log_set(cli->quiet ? ZB_LOG_QUIET : cli->verbose ? ZB_LOG_DEBUG : ZB_LOG_INFO);
    if (cli->threads > 0) omp_set_num_threads((int)cli->threads);
    return true;
}

int zb_cli_end(zb_cli *cli, zb_status s) {
    if (s == ZB_OK && (fflush(stdout) != 0 || ferror(stdout)))
        s = zb_fail(&cli->err, ZB_ERR_IO, "cannot write to standard output: %s", strerror(errno));
    if (s != ZB_OK) {
        const char *said = cli->err.msg[0] ? cli->err.msg : zb_status_text(s);
        if (s == ZB_ERR_USAGE)
            zb_error("zebra %s: error: %s (see `zebra %s --help`)", cli->name, said, cli->name);
        else
            zb_error("zebra %s: error: %s", cli->name, said);
    }
    zb_arena_free(&cli->arena);
    return zb_status_exit(s);
}

zb_status zb_cli_need(zb_cli *cli, const char *value, const char *flag) {
    return value ? ZB_OK : zb_fail(&cli->err, ZB_ERR_USAGE, "expected %s", flag);
}

static zb_status read_stdin(zb_cli *cli, const char **out, size_t *n) {
    size_t cap = 0, have = 0;
    char *text = NULL;
    for (;;) {
        text = zb_grow(&cli->arena, text, &cap, have + 65536, 1);
        size_t got = fread(text + have, 1, cap - have - 1, stdin);
        have += got;
        if (got == 0) break;
        if (have > text_max)
            return zb_fail(&cli->err, ZB_ERR_IO, "standard input: expected at most %zu bytes",
                           text_max);
    }
    if (ferror(stdin)) return zb_fail(&cli->err, ZB_ERR_IO, "standard input: %s", strerror(errno));
    text[have] = 0;
    *out = text;
    *n = have;
    return ZB_OK;
}

zb_status zb_cli_text(zb_cli *cli, const char *text, const char *file, const char **out,
                      size_t *n) {
    if (text && file)
        return zb_fail(&cli->err, ZB_ERR_USAGE, "expected a text or a file, found both");
    if (text) {
        *out = text;
        *n = strlen(text);
        return ZB_OK;
    }
    if (file && strcmp(file, "-") != 0) {
        zb_str s;
        ZB_TRY(zb_file_read(file, text_max, &cli->arena, &s, &cli->err));
        *out = s.p;
        *n = s.n;
        return ZB_OK;
    }
    if (!file && isatty(STDIN_FILENO))
        return zb_fail(&cli->err, ZB_ERR_USAGE,
                       "expected a text: give it as an option, a file or on standard input");
    return read_stdin(cli, out, n);
}

zb_status zb_cli_ids(zb_cli *cli, const char *list, const char *flag, int vocab, zb_ids *out) {
    int n = 0, max = 1;
    for (const char *p = list; *p; p++) max += *p == ',';
    int *ids = ZB_NEW_ARRAY(&cli->arena, int, max);
    ZB_TRY(zb_list_ints(list, flag, 0, vocab - 1, ids, max, &n, &cli->err));
    if (n == 0)
        return zb_fail(&cli->err, ZB_ERR_USAGE, "%s: expected ids such as 1,2,3, found none", flag);
    *out = (zb_ids){.id = ids, .n = (size_t)n};
    return ZB_OK;
}

zb_status zb_cli_engine(zb_cli *cli, const char *model, int64_t context, zb_engine **out) {
    ZB_TRY(zb_cli_need(cli, model, "a model: -m FOLDER or -m FILE.gguf"));
    zb_engine_opts o = {.threads = (int)cli->threads,
                        .context = (int)context,
                        .precision = cli->precision,
                        .cache = cli->cache_type};
    return zb_engine_open(out, model, &o, &cli->err);
}

json_t *zb_cli_json_text(zb_str text) {
    zb_buf b;
    zb_buf_init(&b, text.n * 3 + 16);
    for (size_t i = 0; i < text.n;) {
        uint32_t cp;
        size_t n = zb_utf8_decode(text.p + i, text.n - i, &cp);
        if (n)
            zb_buf_add(&b, text.p + i, n);
        else
            zb_buf_adds(&b, "\xef\xbf\xbd");
        i += n ? n : 1;
    }
    json_t *v = json_stringn(b.n ? b.p : "", b.n);
    zb_buf_free(&b);
    return v;
}

json_t *zb_cli_piece(const zb_tokenizer *t, int32_t id) {
    return id < zb_tokenizer_vocab(t) ? zb_cli_json_text(zb_tokenizer_piece(t, id)) : json_null();
}

zb_status zb_cli_print(zb_cli *cli, const char *bytes, size_t n) {
    if (fwrite(bytes, 1, n, stdout) != n || fflush(stdout) != 0)
        return zb_fail(&cli->err, ZB_ERR_IO, "cannot write to standard output: %s",
                       strerror(errno));
    return ZB_OK;
}

zb_status zb_cli_print_json(zb_cli *cli, json_t *value, bool indent) {
    int bad = json_dumpf(value, stdout,
                         (indent ? (size_t)JSON_INDENT(2) : JSON_COMPACT) | JSON_REAL_PRECISION(9) |
                             JSON_ENCODE_ANY);
    json_decref(value);
    if (bad)
        return zb_fail(&cli->err, ZB_ERR_IO, "cannot write to standard output: %s",
                       strerror(errno));
    return zb_cli_print(cli, "\n", 1);
}
