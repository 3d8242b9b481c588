/* document.c - from rows to questions (contract in document.h).
 *
 * As in the LM Evaluation Harness: context = description + examples + prompt, an example = its
 * prompt, one space, its answer, a blank line; continuation = one space + choice (no space behind a
 * chat template); nothing is stripped from a choice beyond what the task file says, and the length
 * of a choice is Python's len(), the number of code points. */
#include "eval/document.h"

#include "base/json.h"
#include "eval/fewshot.h"
#include "eval/text_rule.h"

#include <math.h>
#include <string.h>

/* What documents are made with, and the place of the row that is being read. */
typedef struct source {
    const zb_task *task;
    const zb_document_opts *opts;
    zb_document_set *set;
    zb_fewshot fewshot;
    const char *where; /* "path:line" */
    zb_arena *arena;
    zb_err *err;
} source;

static zb_status list_item(const source *s, const json_t *list, const char *path, size_t i,
                           zb_str *out) {
    const json_t *v = json_array_get(list, i);
    if (!json_is_string(v))
        return zb_fail(s->err, ZB_ERR_FORMAT,
                       "%s: field \"%s\", item %zu: expected a string, found %s", s->where, path, i,
                       zb_json_type(v));
    *out = (zb_str){json_string_value(v), json_string_length(v)};
    return ZB_OK;
}

/* The texts of a zb_task_list for this row. */
static zb_status list_texts(const source *s, const zb_task_list *l, const json_t *row, zb_str **out,
                            int *n) {
    if (!l->path) {
        *out = ZB_NEW_ARRAY(s->arena, zb_str, l->n);
        *n = l->n;
        for (int i = 0; i < l->n; i++)
            ZB_TRY(zb_template_render(&l->item[i], row, s->where, s->arena, &(*out)[i], s->err));
        return ZB_OK;
    }
    const json_t *list;
    ZB_TRY(zb_template_lookup(row, l->path, s->where, &list, s->err));
    if (!json_is_array(list))
        return zb_fail(s->err, ZB_ERR_FORMAT, "%s: field \"%s\": expected an array, found %s",
                       s->where, l->path, zb_json_type(list));
    size_t count = json_array_size(list);
    if (count == 0 || count > ZB_CHOICES_MAX)
        return zb_fail(s->err, ZB_ERR_FORMAT, "%s: field \"%s\": expected 1 to %d items, found %zu",
                       s->where, l->path, ZB_CHOICES_MAX, count);
    *out = ZB_NEW_ARRAY(s->arena, zb_str, count);
    *n = (int)count;
    for (size_t i = 0; i < count; i++) ZB_TRY(list_item(s, list, l->path, i, &(*out)[i]));
    return ZB_OK;
}

static zb_status read_gold(const source *s, const json_t *row, int n_choices, int *gold) {
    const zb_task *t = s->task;
    zb_str value;
    ZB_TRY(zb_template_render(&t->gold, row, s->where, s->arena, &value, s->err));
    if (t->gold_among.path || t->gold_among.item) {
        zb_str *text = NULL;
        int n = 0;
        ZB_TRY(list_texts(s, &t->gold_among, row, &text, &n));
        for (*gold = 0; *gold < n; ++*gold)
            if (zb_str_eq(text[*gold], value)) break;
        if (*gold == n || *gold >= n_choices)
            return zb_fail(s->err, ZB_ERR_FORMAT,
                           "%s: answer \"%.40s\" (%s): expected the label of one of %d choices",
                           s->where, value.p, t->gold.source, n_choices);
        return ZB_OK;
    }
    /* Data sets disagree whether a label is a number or its text: the template gives text for both.
     */
    int64_t position;
    zb_str digits = zb_str_trim(value);
    if (!zb_parse_i64(zb_strndup(s->arena, digits.p, digits.n), &position) ||
        position < t->gold_from || position - t->gold_from >= n_choices)
        return zb_fail(s->err, ZB_ERR_FORMAT,
                       "%s: answer \"%.40s\" (%s): expected an integer from %lld to %lld", s->where,
                       value.p, t->gold.source, (long long)t->gold_from,
                       (long long)(t->gold_from + n_choices - 1));
    *gold = (int)(position - t->gold_from);
    return ZB_OK;
}

/* The task's rule on a prompt or choice; rules without argument apply to any text. */
static zb_str clean(const source *s, zb_str text) {
    if (s->task->clean) s->task->clean->apply(text, ZB_STR(""), s->arena, &text);
    return text;
}

static zb_str join(const source *s, zb_str head, zb_str tail) {
    char *p = zb_alloc(s->arena, head.n + tail.n + 1);
    if (head.n) memcpy(p, head.p, head.n);
    if (tail.n) memcpy(p + head.n, tail.p, tail.n);
    return (zb_str){p, head.n + tail.n};
}

/* The question of a row: its prompt, and the texts of its choices. */
typedef struct question {
    zb_str *prompt; /* [n_prompts]: one, or one per choice */
    int n_prompts;
    zb_str *choice; /* [n_choices]; of prompts, all the same text */
    int n_choices;
    int gold;
    const char *target;
} question;

static zb_status render(const source *s, const zb_template *t, const json_t *row, zb_str *out) {
    *out = (zb_str){"", 0};
    return t->source ? zb_template_render(t, row, s->where, s->arena, out, s->err) : ZB_OK;
}

static zb_status read_prompts(const source *s, const json_t *row, question *q) {
    const zb_task *t = s->task;
    q->n_prompts = t->prompts ? t->n_prompts : 1;
    q->prompt = ZB_NEW_ARRAY(s->arena, zb_str, q->n_prompts);
    for (int i = 0; i < q->n_prompts; i++) {
        ZB_TRY(render(s, t->prompts ? &t->prompts[i] : &t->prompt, row, &q->prompt[i]));
        q->prompt[i] = clean(s, q->prompt[i]);
    }
    return ZB_OK;
}

static zb_status read_question(const source *s, const json_t *row, question *q) {
    const zb_task *t = s->task;
    *q = (question){0};
    ZB_TRY(read_prompts(s, row, q));
    if (t->output == ZB_TASK_CHOICE && !t->prompts) {
        ZB_TRY(list_texts(s, &t->choices, row, &q->choice, &q->n_choices));
        ZB_ASSERT(q->choice);
        for (int i = 0; i < q->n_choices; i++) q->choice[i] = clean(s, q->choice[i]);
    } else {
        zb_str text;
        ZB_TRY(render(s, &t->continuation, row, &text));
        q->n_choices = q->n_prompts;
        q->choice = ZB_NEW_ARRAY(s->arena, zb_str, q->n_choices);
        for (int i = 0; i < q->n_choices; i++) q->choice[i] = text;
    }
    if (t->output == ZB_TASK_CHOICE) ZB_TRY(read_gold(s, row, q->n_choices, &q->gold));
    zb_str target;
    ZB_TRY(render(s, &t->target, row, &target));
    if (t->target.source)
        q->target = zb_strndup(s->arena, target.p, target.n);
    else if (t->output == ZB_TASK_CHOICE && !t->prompts)
        q->target = zb_asprintf(s->arena, "%d", q->gold);
    else
        q->target = zb_strndup(s->arena, q->choice[0].p, q->choice[0].n);
    return ZB_OK;
}

/* Two turns: the question of row i of the pool, and its answer. */
static zb_status add_example(const source *s, int i, zb_turn *turn) {
    source at = *s;
    at.where = s->set->pool.where[i];
    question q;
    ZB_TRY(read_question(&at, zb_rows_fields(&s->set->pool, (size_t)i), &q));
    zb_str answer = s->task->output == ZB_TASK_GENERATE ? zb_str_from(q.target) : q.choice[q.gold];
    turn[0] = (zb_turn){"user", q.prompt[q.n_prompts > 1 ? q.gold : 0], " "};
    turn[1] = (zb_turn){"assistant", answer, "\n\n"};
    return ZB_OK;
}

/* Description and examples; *n turns, with room for the question. */
static zb_status begin_context(source *s, const json_t *row, int leaf, zb_turn **turn, int *n) {
    zb_str description;
    int *pick = ZB_NEW_ARRAY(s->arena, int, s->set->shots + 1);
    *turn = ZB_NEW_ARRAY(s->arena, zb_turn, 2 * s->set->shots + 2);
    *n = 0;
    ZB_TRY(render(s, &s->task->description, row, &description));
    /* The description is not cleaned: it is ours, not the data set's. */
    if (description.n) (*turn)[(*n)++] = (zb_turn){"system", description, ""};
    if (s->set->shots == 0) return ZB_OK;
    ZB_TRY(zb_fewshot_next(&s->fewshot, leaf, row, pick, s->err));
    for (int i = 0; i < s->set->shots; i++, *n += 2) ZB_TRY(add_example(s, pick[i], *turn + *n));
    return ZB_OK;
}

/* The length that divides in acc_norm leaves the delimiter out. */
static zb_status set_choice(const source *s, zb_choice *c, int i, zb_str context, zb_str text) {
    bool choice = s->task->output == ZB_TASK_CHOICE;
    c->context = context;
    c->continuation = choice && !s->opts->style.chat.template ? join(s, ZB_STR(" "), text) : text;
    c->length = (int64_t)zb_utf8_length(text.p, text.n);
    c->bytes = (int64_t)text.n;
    /* Division by a length of 0 has no meaning; the harness would stop with an error, too. */
    if (choice && !s->task->prompts && c->length == 0)
        return zb_fail(s->err, ZB_ERR_FORMAT, "%s: choice %d: expected text, found none", s->where,
                       i);
    return ZB_OK;
}

static zb_status read_labels(const source *s, const json_t *row, zb_document *d) {
    const json_t *list;
    ZB_TRY(zb_template_lookup(row, s->task->labels, s->where, &list, s->err));
    bool *label = ZB_NEW_ARRAY(s->arena, bool, d->n_choices);
    if (json_array_size(list) != (size_t)d->n_choices)
        return zb_fail(s->err, ZB_ERR_FORMAT, "%s: field \"%s\": expected %d labels, found %zu",
                       s->where, s->task->labels, d->n_choices, json_array_size(list));
    for (int i = 0; i < d->n_choices; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        if (!json_is_integer(v) || (json_integer_value(v) != 0 && json_integer_value(v) != 1))
            return zb_fail(s->err, ZB_ERR_FORMAT, "%s: field \"%s\": expected labels 0 and 1",
                           s->where, s->task->labels);
        label[i] = json_integer_value(v) == 1;
    }
    d->label = label;
    return ZB_OK;
}

/* Words as Python's len(re.split(r"\s+", text)): runs of white space and one. */
static int64_t count_words(zb_str text) {
    int64_t n = 1;
    bool inside = false;
    for (size_t i = 0; i < text.n;) {
        uint32_t c = 0;
        size_t k = zb_utf8_decode(text.p + i, text.n - i, &c);
        bool space = k && zb_text_is_space(c);
        n += space && !inside;
        inside = space;
        i += k ? k : 1;
    }
    return n;
}

static zb_status read_counts(const source *s, const json_t *row, zb_document *d) {
    zb_str text = d->choice[0].continuation;
    if (s->task->count.source) ZB_TRY(render(s, &s->task->count, row, &text));
    d->words = count_words(text);
    d->bytes = (int64_t)text.n;
    if (d->bytes == 0)
        return zb_fail(s->err, ZB_ERR_FORMAT, "%s: expected text, found none", s->where);
    return ZB_OK;
}

/* A rolling task has no context: its text is scored from the first token on. */
static zb_status read_document(source *s, const json_t *row, zb_document *d) {
    question q;
    zb_turn *turn = NULL;
    int n;
    zb_str context = {"", 0};
    ZB_TRY(read_question(s, row, &q));
    ZB_TRY(begin_context(s, row, d->leaf, &turn, &n));
    d->n_choices = q.n_choices;
    d->choice = ZB_NEW_ARRAY(s->arena, zb_choice, q.n_choices);
    for (int i = 0; i < q.n_choices; i++) {
        if (s->task->output != ZB_TASK_ROLLING && (i == 0 || q.n_prompts > 1)) {
            turn[n] = (zb_turn){"user", q.prompt[q.n_prompts > 1 ? i : 0], ""};
            ZB_TRY(zb_prompt_write(&s->opts->style, turn, n + 1, s->arena, &context, s->err));
        }
        ZB_TRY(set_choice(s, &d->choice[i], i, context, q.choice[i]));
    }
    d->gold = q.gold;
    d->target = q.target;
    if (s->task->labels) ZB_TRY(read_labels(s, row, d));
    return s->task->output == ZB_TASK_ROLLING ? read_counts(s, row, d) : ZB_OK;
}

/* Documents to take of `total`: a share is rounded up, as in the harness. */
static int64_t quota(double limit, int64_t total) {
    if (limit <= 0) return total;
    double n = limit < 1 ? ceil((double)total * limit) : floor(limit);
    return n < (double)total ? (int64_t)n : total;
}

/* Whether document `id` of a leaf is wanted. */
static bool wanted(const source *s, int leaf, int64_t id) {
    const zb_task_leaf *l = &s->task->leaf[leaf];
    const json_t *list = s->opts->picked ? json_object_get(s->opts->picked, l->name) : NULL, *v;
    if (!l->selected) return false;
    if (!list) return id < quota(s->opts->limit, s->set->total[leaf]);
    size_t i;
    json_array_foreach((json_t *)list, i, v) {
        if (json_integer_value(v) == id) return true;
    }
    return false;
}

/* The picked numbers of each leaf must be integers that its rows have. */
static zb_status check_picked(const source *s) {
    for (int l = 0; l < s->task->n_leaves && s->opts->picked; l++) {
        const char *name = s->task->leaf[l].name;
        const json_t *list = json_object_get(s->opts->picked, name), *v;
        size_t i;
        if (!list) continue;
        if (!json_is_array(list))
            return zb_fail(s->err, ZB_ERR_USAGE,
                           "samples: %s: expected a list of numbers, found %s", name,
                           zb_json_type(list));
        json_array_foreach((json_t *)list, i, v) {
            if (!json_is_integer(v) || json_integer_value(v) < 0 ||
                json_integer_value(v) >= s->set->total[l])
                return zb_fail(s->err, ZB_ERR_USAGE,
                               "samples: %s: item %zu: expected a number from 0 to %lld, found %s",
                               name, i, (long long)s->set->total[l] - 1,
                               json_is_integer(v)
                                   ? zb_asprintf(s->arena, "%lld", (long long)json_integer_value(v))
                                   : zb_json_type(v));
        }
    }
    return ZB_OK;
}

/* All rows are parsed before any document is made: the counts of the parts decide how many to take,
 * and a broken line is found even if --limit would leave it out. */
static zb_status build(source *s) {
    zb_document_set *set = s->set;
    const zb_task *t = s->task;
    for (size_t i = 0; i < set->rows.n; i++) set->total[set->rows.leaf[i]]++;
    for (int i = 0; i < t->n_leaves; i++)
        if (t->leaf[i].selected && set->total[i] == 0)
            return zb_fail(s->err, ZB_ERR_FORMAT, "%s: no rows of %s", set->rows.path,
                           t->leaf[i].name);
    ZB_TRY(check_picked(s));
    ZB_TRY(zb_fewshot_init(&s->fewshot, t, &set->pool, set->shots, s->arena, s->err));
    set->doc = ZB_NEW_ARRAY(s->arena, zb_document, set->rows.n + 1);
    int64_t *seen = ZB_NEW_ARRAY(s->arena, int64_t, t->n_leaves);
    for (size_t i = 0; i < set->rows.n; i++) {
        int l = set->rows.leaf[i];
        int64_t id = seen[l]++;
        if (!wanted(s, l, id)) continue;
        zb_document *d = &set->doc[set->n++];
        set->used[l]++;
        d->id = id;
        d->leaf = l;
        d->row = zb_rows_shown(&set->rows, t, i);
        d->where = s->where = set->rows.where[i];
        ZB_TRY(read_document(s, zb_rows_fields(&set->rows, i), d));
    }
    return ZB_OK;
}

zb_status zb_document_set_read(const zb_task *t, const zb_document_opts *o, zb_arena *a,
                               zb_document_set *out, zb_err *err) {
    *out = (zb_document_set){.arena = a, .shots = zb_task_shots(t, o->shots)};
    out->total = ZB_NEW_ARRAY(a, int64_t, t->n_leaves);
    out->used = ZB_NEW_ARRAY(a, int64_t, t->n_leaves);
    source s = {.task = t, .opts = o, .set = out, .arena = a, .err = err};
    ZB_TRY(zb_rows_read(t, o->data_dir, t->data, t->rows, a, &out->rows, err));
    if (out->shots > 0 && !t->fewshot.data)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "num_fewshot: %s names no pool of examples (fewshot: data), found %d",
                       t->file, out->shots);
    if (out->shots > 0)
        ZB_TRY(zb_rows_read(t, o->data_dir, t->fewshot.data, t->fewshot.rows, a, &out->pool, err));
    return build(&s);
}

void zb_document_set_free(zb_document_set *s) {
    zb_rows_free(&s->rows);
    zb_rows_free(&s->pool);
    *s = (zb_document_set){0};
}
