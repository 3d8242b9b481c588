/* cmd_tokenize.c - `zebra tokenize`: text to ids, ids to text. */
#include "cli/cli.h"

#include "generate/engine.h"

#include <stdio.h>
#include <string.h>

typedef struct options {
    const char *model, *prompt, *file, *decode;
    bool special, parse_special, json;
} options;

static const zb_opt table[] = {
    {ZB_OPT_STR, "model", 'm', offsetof(options, model), NULL, 0, 0, NULL,
     "model folder or .gguf file with a tokenizer"},
    {ZB_OPT_STR, "prompt", 'p', offsetof(options, prompt), NULL, 0, 0, NULL,
     "text; else -f, else standard input"},
    {ZB_OPT_STR, "file", 'f', offsetof(options, file), NULL, 0, 0, NULL,
     "read the text from a file"},
    {ZB_OPT_STR, "decode", 'd', offsetof(options, decode), NULL, 0, 0, NULL,
     "turn ids (1,2,3) into text instead"},
    {ZB_OPT_BOOL, "add_special", 'b', offsetof(options, special), "true", 0, 0, NULL,
     "put BOS or EOS where the tokenizer's settings say so"},
    {ZB_OPT_BOOL, "parse_special", 's', offsetof(options, parse_special), NULL, 0, 0, NULL,
     "text such as <|im_end|> becomes its token"},
    {ZB_OPT_BOOL, "json", 'j', offsetof(options, json), NULL, 0, 0, NULL,
     "one JSON object instead of lines"},
    {0},
};

static const zb_cli_about about = {
    "-m MODEL [-p TEXT | -f FILE | --decode IDS] [options]",
    "Prints the token ids of a text, one line per token: id, a tab, the token's text; or the text "
    "of ids.",
    NULL,
};

static zb_status encode(zb_cli *cli, const options *o, const zb_tokenizer *t) {
    const char *text;
    size_t n;
    zb_ids ids;
    ZB_TRY(zb_cli_text(cli, o->prompt, o->file, &text, &n));
    ZB_TRY(zb_tokenizer_encode(t, (zb_str){text, n}, o->special, o->parse_special, &cli->arena,
                               &ids, &cli->err));
    json_t *tokens = json_array();
    for (size_t i = 0; i < ids.n; i++) {
        json_t *piece = zb_cli_piece(t, ids.id[i]);
        json_array_append_new(tokens, json_pack("{s:i, s:o}", "id", (int)ids.id[i], "text", piece));
    }
    if (o->json)
        return zb_cli_print_json(
            cli, json_pack("{s:I, s:o}", "n", (json_int_t)ids.n, "tokens", tokens), false);
    for (size_t i = 0; i < ids.n; i++) {
        printf("%d\t", ids.id[i]);
        json_dumpf(json_object_get(json_array_get(tokens, i), "text"), stdout, JSON_ENCODE_ANY);
        putchar('\n');
    }
    json_decref(tokens);
    return ZB_OK;
}

static zb_status decode(zb_cli *cli, const options *o, const zb_tokenizer *t) {
    zb_ids ids;
    zb_buf text;
    ZB_TRY(zb_cli_ids(cli, o->decode, "--decode", zb_tokenizer_vocab(t), &ids));
    zb_buf_init(&text, (size_t)1 << 30);
    zb_status s = zb_tokenizer_decode(t, ids.id, ids.n, true, &text, &cli->err);
    if (s == ZB_OK && o->json)
        s = zb_cli_print_json(cli, json_pack("{s:o}", "text", zb_cli_json_text(zb_buf_str(&text))),
                              false);
    else if (s == ZB_OK)
        s = zb_cli_print(cli, text.p ? text.p : "", text.n);
    zb_buf_free(&text);
    return s;
}

static zb_status run(zb_cli *cli, const options *o) {
    zb_tokenizer *t;
    ZB_TRY(zb_cli_need(cli, o->model, "a model: -m FOLDER or -m FILE.gguf"));
    if (o->decode && (o->prompt || o->file))
        return zb_fail(&cli->err, ZB_ERR_USAGE, "--decode stands alone: leave -p and -f out");
    ZB_TRY(zb_model_tokenizer(&t, o->model, &cli->err));
    if (!t)
        return zb_fail(
            &cli->err, ZB_ERR_CONFIG,
            "%s: expected a tokenizer (tokenizer.json, or the keys of a GGUF file), found none",
            o->model);
    zb_status s = o->decode ? decode(cli, o, t) : encode(cli, o, t);
    zb_tokenizer_close(t);
    return s;
}

int zb_cmd_tokenize(int argc, char **argv) {
    options o;
    zb_cli cli;
    int status;
    const zb_opt_group groups[] = {{"options", table, &o}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, groups, 0, &about, &status)) return status;
    return zb_cli_end(&cli, run(&cli, &o));
}
