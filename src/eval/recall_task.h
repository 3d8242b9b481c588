/* recall_task.h - one recall test: a YAML file that says what is hidden in a text and how it is
 * asked for.
 *
 * tasks/recall/<name>.yaml; nothing is compiled in, so a new file is a new test (keys:
 * tasks/README.md). The tests there are RULER's (github.com/NVIDIA/RULER). Two kinds: `needle`,
 * sentences that give a value to a key, and `chain`, variables assigned one from another.
 * Everything lives in the arena given; immutable after reading. */
#ifndef ZB_EVAL_RECALL_TASK_H
#define ZB_EVAL_RECALL_TASK_H

#include "eval/template.h"

typedef struct zb_recall_task {
    const char *name, *file; /* file: for messages */
    const char *kind;        /* needle | chain */
    const char *haystack;    /* noise: a line repeated; text: running text; needles: more of them */
    const char *noise;
    const char *key, *value; /* words | numbers | uuids */
    int64_t keys, values;    /* hidden keys, and values of each */
    int64_t queries;         /* keys that are asked for */
    int64_t hops;            /* chain: assignments behind the first */
    int64_t example;         /* chain: most tokens of a solved example in front; 0: none */
    int64_t max_tokens;      /* of a generated answer */
    const char *needle_text, *prompt_text, *answer_text;
    const char *lead, *join; /* before the first and between expected values */
    zb_template needle;      /* {key} {value} */
    zb_template prompt;      /* {context} {query} */
    zb_template answer;      /* {query} {count}: how the answer begins */
} zb_recall_task;

enum { ZB_RECALL_NEEDLES_MAX = 64 };

zb_status zb_recall_task_read(const char *dir, const char *name, zb_arena *a, zb_recall_task *out,
                              zb_err *err);

/* Values that a right answer names. */
int zb_recall_task_expected(const zb_recall_task *t);

/* Whether a depth can be chosen: the one value that is asked for stands in one place. */
bool zb_recall_task_has_depth(const zb_recall_task *t);

/* What the keys of needles are made of: an adjective and a noun. */
typedef struct zb_recall_words {
    const char **adjective, **noun;
    int n_adjectives, n_nouns;
} zb_recall_words;

zb_status zb_recall_words_read(const char *dir, zb_arena *a, zb_recall_words *out, zb_err *err);

#endif
