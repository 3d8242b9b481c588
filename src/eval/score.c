/* score.c - the table of metrics (contract in score.h).
 *
 *   acc             the choice with the greatest summed log-probability is the right one
 *   acc_norm        the same after division by the number of code points of the choice
 *   acc_bytes       ... of bytes
 *   mc2             share of the choices' probability that lies on those labelled 1
 *   acc             (of one continuation) every token was the most probable one
 *   perplexity      exp of minus the mean log-probability of a continuation
 *   word_perplexity, byte_perplexity, bits_per_byte    of a text, by the words and bytes of `count`
 *   exact_match     the filtered text equals the target
 *
 * The harness estimates the error of a perplexity by bootstrap: 100,000 resamples in chunks of
 * 1,000, chunk i drawn by Random(i); so do we, to all digits. */
#include "eval/score.h"

#include "eval/python_random.h"

#include <math.h>
#include <string.h>

enum { BOOTSTRAP = 100000, CHUNK = 1000 };

typedef enum divisor { BY_NOTHING, BY_LENGTH, BY_BYTES } divisor;

static zb_score_value best_is_gold(const zb_document *d, divisor by) {
    double score[ZB_CHOICES_MAX];
    int64_t length[ZB_CHOICES_MAX];
    ZB_ASSERT(d->n_choices <= ZB_CHOICES_MAX);
    for (int i = 0; i < d->n_choices; i++) {
        score[i] = d->choice[i].score.logprob;
        length[i] = by == BY_BYTES ? d->choice[i].bytes : d->choice[i].length;
    }
    int best = zb_metric_best(score, by == BY_NOTHING ? NULL : length, d->n_choices);
    return (zb_score_value){best == d->gold ? 1 : 0, 1};
}

static zb_score_value acc(const zb_task *t, const zb_document *d, const zb_filter *f, zb_arena *a) {
    (void)t, (void)f, (void)a;
    return best_is_gold(d, BY_NOTHING);
}

static zb_score_value acc_norm(const zb_task *t, const zb_document *d, const zb_filter *f,
                               zb_arena *a) {
    (void)t, (void)f, (void)a;
    return best_is_gold(d, BY_LENGTH);
}

static zb_score_value acc_bytes(const zb_task *t, const zb_document *d, const zb_filter *f,
                                zb_arena *a) {
    (void)t, (void)f, (void)a;
    return best_is_gold(d, BY_BYTES);
}

/* As the harness computes it, without taking the greatest out first: a document of choices so
 * improbable that all of them are 0 has no score there, either. */
static zb_score_value mc2(const zb_task *t, const zb_document *d, const zb_filter *f, zb_arena *a) {
    (void)t, (void)f, (void)a;
    double all = 0, right = 0;
    for (int i = 0; i < d->n_choices; i++) all += exp(d->choice[i].score.logprob);
    for (int i = 0; i < d->n_choices; i++)
        if (d->label[i]) right += exp(d->choice[i].score.logprob) / all;
    return (zb_score_value){right, 1};
}

static zb_score_value greedy(const zb_task *t, const zb_document *d, const zb_filter *f,
                             zb_arena *a) {
    (void)t, (void)f, (void)a;
    return (zb_score_value){d->choice[0].score.greedy ? 1 : 0, 1};
}

static zb_score_value logprob(const zb_task *t, const zb_document *d, const zb_filter *f,
                              zb_arena *a) {
    (void)t, (void)f, (void)a;
    return (zb_score_value){d->choice[0].score.logprob, 1};
}

static zb_score_value per_word(const zb_task *t, const zb_document *d, const zb_filter *f,
                               zb_arena *a) {
    (void)t, (void)f, (void)a;
    return (zb_score_value){d->choice[0].score.logprob, (double)d->words};
}

static zb_score_value per_byte(const zb_task *t, const zb_document *d, const zb_filter *f,
                               zb_arena *a) {
    (void)t, (void)f, (void)a;
    return (zb_score_value){d->choice[0].score.logprob, (double)d->bytes};
}

static zb_score_value exact_match(const zb_task *t, const zb_document *d, const zb_filter *f,
                                  zb_arena *a) {
    zb_mark mark = zb_arena_mark(a);
    zb_str text = f ? zb_filter_apply(f, d->reply, a) : d->reply;
    bool same = zb_exact_match_test(&t->match, text, zb_str_from(d->target), a);
    zb_arena_pop(a, mark);
    return (zb_score_value){same ? 1 : 0, 1};
}

static const zb_score_kind kinds[] = {
    {ZB_TASK_CHOICE, "acc", "acc", true, false, ZB_SCORE_MEAN, acc},
    {ZB_TASK_CHOICE, "acc_norm", "acc_norm", true, false, ZB_SCORE_MEAN, acc_norm},
    {ZB_TASK_CHOICE, "acc_bytes", "acc_bytes", true, false, ZB_SCORE_MEAN, acc_bytes},
    {ZB_TASK_CHOICE, "mc2", "acc", true, true, ZB_SCORE_MEAN, mc2},
    {ZB_TASK_LIKELIHOOD, "acc", "acc", true, false, ZB_SCORE_MEAN, greedy},
    {ZB_TASK_LIKELIHOOD, "perplexity", "perplexity", false, false, ZB_SCORE_PERPLEXITY, logprob},
    {ZB_TASK_ROLLING, "bits_per_byte", "bits_per_byte", false, false, ZB_SCORE_BITS, per_byte},
    {ZB_TASK_ROLLING, "byte_perplexity", "byte_perplexity", false, false, ZB_SCORE_RATIO, per_byte},
    {ZB_TASK_ROLLING, "word_perplexity", "word_perplexity", false, false, ZB_SCORE_RATIO, per_word},
    {ZB_TASK_GENERATE, "exact_match", "exact_match", true, false, ZB_SCORE_MEAN, exact_match},
};

const zb_score_kind *zb_score_find(zb_task_output output, const char *key) {
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (kinds[i].output == output && !strcmp(kinds[i].key, key)) return &kinds[i];
    return NULL;
}

const char *zb_score_names(zb_task_output output, zb_arena *a) {
    const char *names = "";
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (kinds[i].output == output)
            names = zb_asprintf(a, "%s%s%s", names, *names ? ", " : "", kinds[i].key);
    return names;
}

/* Standard deviation of exp(-mean) over resamples of the n values. */
static double bootstrap(const zb_score_value *x, int64_t n, zb_arena *scratch) {
    double *value = ZB_NEW_ARRAY(scratch, double, BOOTSTRAP), mean = 0, square = 0;
#pragma omp parallel for schedule(static)
    for (int chunk = 0; chunk < BOOTSTRAP / CHUNK; chunk++) {
        zb_python_random random;
        zb_python_random_seed(&random, (uint64_t)chunk);
        for (int i = 0; i < CHUNK; i++) {
            double sum = 0;
            for (int64_t k = 0; k < n; k++)
                sum += x[(int64_t)(zb_python_random_real(&random) * (double)n)].x;
            value[chunk * CHUNK + i] = exp(-sum / (double)n);
        }
    }
    for (int i = 0; i < BOOTSTRAP; i++) mean += value[i] / BOOTSTRAP;
    for (int i = 0; i < BOOTSTRAP; i++) square += (value[i] - mean) * (value[i] - mean);
    return sqrt(square / (BOOTSTRAP - 1));
}

zb_metric zb_score_total(const zb_score_kind *k, const zb_score_value *x, int64_t n,
                         zb_arena *scratch) {
    zb_mark mark = zb_arena_mark(scratch);
    double *plain = ZB_NEW_ARRAY(scratch, double, n), sum = 0, weight = 0;
    for (int64_t i = 0; i < n; i++) {
        plain[i] = x[i].x;
        sum += x[i].x;
        weight += x[i].weight;
    }
    zb_metric m = zb_metric_mean(plain, n);
    if (k->sum == ZB_SCORE_PERPLEXITY)
        m = (zb_metric){exp(-m.value), n > 1 ? bootstrap(x, n, scratch) : (double)NAN};
    else if (k->sum == ZB_SCORE_RATIO)
        m = (zb_metric){exp(-sum / weight), (double)NAN};
    else if (k->sum == ZB_SCORE_BITS)
        m = (zb_metric){-sum / weight / log(2), (double)NAN};
    zb_arena_pop(scratch, mark);
    return m;
}
