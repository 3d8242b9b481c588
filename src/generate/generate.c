/* generate.c - the loop of prompt, choice, step (contract in zebra.h).
 *
 * The last chosen token is not computed: nobody has asked what follows it, and the next sync
 * computes it if needed. */
#include "generate/session.h"

#include "base/log.h"

zb_status zb_generate(zb_session *s, zb_sampler *sampler, const zb_generate_request *r,
                      zb_generation *out, zb_err *err) {
    *out = (zb_generation){.prompt_tokens = r->n};
    if (r->n < 1)
        return zb_fail(err, ZB_ERR_CONFIG, "generation starts from at least one token, found none");
    double t0 = zb_seconds();
    int64_t computed = zb_session_computed(s);
    ZB_TRY(zb_session_sync(s, r->prompt, r->n, err));
    out->computed = (int)(zb_session_computed(s) - computed);
    double t1 = zb_seconds();
    out->prompt_seconds = t1 - t0;
    int room = zb_session_max(s) - r->n + 1, max = r->max < 0 || r->max > room ? room : r->max;
    out->finish = ZB_FINISH_LENGTH;
    while (out->tokens < max) {
        int n;
        const int32_t *so_far = zb_session_tokens(s, &n);
        int32_t id = zb_sampler_pick(sampler, zb_session_logits(s), so_far, n);
        out->seconds = zb_seconds() - t1;
        if (!r->ignore_end && zb_engine_is_end(zb_session_engine(s), id)) {
            out->finish = ZB_FINISH_END;
            break;
        }
        out->tokens++;
        if (r->on_token && !r->on_token(r->user, id)) {
            out->finish = ZB_FINISH_CALLER;
            break;
        }
        if (zb_interrupted())
            return zb_fail(err, ZB_ERR_INTERRUPTED, "interrupted after %d tokens", out->tokens);
        if (out->tokens == max) break;
        ZB_TRY(zb_session_step(s, id, err));
        out->steps++;
    }
    return ZB_OK;
}
