/* main.c - the program `zebra`: finds the command and runs it.
 *
 * A new command is one file cmd_<name>.c, its function declared in cli.h, and one row here. */
#include "cli/cli.h"

#include "base/log.h"
#include "base/text.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

typedef struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} command;

static const command commands[] = {
    {"pipeline", zb_cmd_pipeline, "all stages of a recipe, resuming where it stopped"},
    {"compose", zb_cmd_compose, "a student from a teacher and a layer plan"},
    {"align", zb_cmd_align, "train each layer to do what the teacher's does (ILD)"},
    {"select", zb_cmd_select, "what stands in each layer: a plan under a budget, or SMART"},
    {"distill", zb_cmd_distill, "train all weights against the teacher (KD)"},
    {"tune", zb_cmd_tune, "tune to preferred answers (DPO) or to answers (SFT)"},
    {"prune", zb_cmd_prune, "a smaller model: fewer layers, heads, neurons, channels"},
    {"quantize", zb_cmd_quantize, "a model with packed weights, as a GGUF file"},
    {"eval", zb_cmd_eval, "harness tasks, perplexity, divergence from a teacher"},
    {"recall", zb_cmd_recall, "what a model still knows of a long text"},
    {"report", zb_cmd_report, "report.json, report.html and plots of measured files"},
    {"generate", zb_cmd_generate, "continue a text, or answer one message"},
    {"chat", zb_cmd_chat, "talk with a model"},
    {"tokenize", zb_cmd_tokenize, "text to token ids and back"},
    {"score", zb_cmd_score, "log-probability of each token of a text"},
    {"inspect", zb_cmd_inspect, "layers, parameters, cache and state of a model"},
    {"bench", zb_cmd_bench, "speed of prompts and of generation, beside the machine's limits"},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static const command *find(const char *name) {
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, name)) return &commands[i];
    return NULL;
}

static void print_help(void) {
    static const struct {
        int status;
        const char *text;
    } exits[] = {
#define ZB_X(code, exit_status, http, text) {exit_status, text},
        ZB_STATUS_LIST(ZB_X)
#undef ZB_X
    };
    printf("usage: zebra COMMAND [options]\n\n"
           "Turns a pretrained Transformer into a hybrid of MLA and Mamba2 layers, trains it by "
           "distillation,\n"
           "evaluates it and runs it.\n\ncommands:\n");
    for (int i = 0; i < N_COMMANDS; i++)
        printf("  %-10s  %s\n", commands[i].name, commands[i].summary);
    printf("\n`zebra COMMAND --help` or `zebra help COMMAND` explains one. `zebra --version` "
           "prints the version.\nValues: --name VALUE or --name=VALUE. What is on or off: --name, "
           "--no-name or --name=false.\n\nexit status:\n");
    for (size_t i = 0; i < sizeof exits / sizeof exits[0]; i++)
        printf("  %3d  %s\n", exits[i].status, exits[i].text);
}

static int unknown(const char *name) {
    const char *near = NULL;
    int best = 4;
    for (int i = 0; i < N_COMMANDS; i++) {
        int d = zb_edit_distance(name, commands[i].name);
        if (d < best) {
            best = d;
            near = commands[i].name;
        }
    }
    fprintf(stderr, "zebra: error: unknown command \"%.64s\"", name);
    if (near) fprintf(stderr, " (did you mean \"%s\"?)", near);
    fprintf(stderr, "; `zebra --help` lists the commands\n");
    return zb_status_exit(ZB_ERR_USAGE);
}

int main(int argc, char **argv) {
    zb_interrupt_install();
    signal(SIGPIPE, SIG_IGN); /* a reader that leaves is a write error, told like any other */
    if (argc < 2) {
        fprintf(stderr, "zebra: error: expected a command; `zebra --help` lists them\n");
        return zb_status_exit(ZB_ERR_USAGE);
    }
    const char *name = argv[1];
    zb_cli cli = {.name = name};
    if (!strcmp(name, "--version")) {
        printf("zebra %s\n", ZB_VERSION);
        return zb_cli_end(&cli, ZB_OK);
    }
    bool help = !strcmp(name, "help");
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || (help && argc < 3)) {
        print_help();
        return zb_cli_end(&cli, ZB_OK);
    }
    const command *c = find(help ? argv[2] : name);
    if (!c) return unknown(help ? argv[2] : name);
    if (!help) return c->run(argc - 1, argv + 1);
    char flag[] = "--help";
    char *asked[] = {argv[2], flag, NULL};
    return c->run(2, asked);
}
