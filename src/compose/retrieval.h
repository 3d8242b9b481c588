/* retrieval.h - which kv heads have to see all tokens where the others get a window.
 *
 * A kv head (with the query heads that share it) costs 2·dh cached values per token, a layer G
 * times that: a budget that pays for one layer of attention pays for G heads anywhere. Few heads of
 * a Transformer fetch what stands far back (Wu et al. 2024, retrieval heads; Xiao et al. 2024,
 * DuoAttention); here they are found by what recall loses without them, no training:
 *
 *   1. each head alone gets the window, all others see all: its loss of recall;
 *   2. the count + 12 heads that lose most see all, all others get the window;
 *   3. from these, one by one, the head without which recall stays best gets the window, until
 *      count are left. Heads work together (one finds the token before, the next what followed it),
 *      which step 1 cannot see.
 *
 * Recall is the cross-entropy of answers to lists of random pairs (pairs.h, with marks). The
 * teacher passes itself with another configuration, since a window takes the same weights, and from
 * the layer of the head in question on. */
#ifndef ZB_COMPOSE_RETRIEVAL_H
#define ZB_COMPOSE_RETRIEVAL_H

#include "compose/select.h"

/* Uses teacher, text, tokens, count, window, sinks, recall_rows, seed, precision, and compose's
 * plan where one is given: heads of its layers with a window (others see all meanwhile). Writes
 * `out`: retrieval_heads ("8:0,18:2": layer:kv head, as compose reads it) and all figures in nats.
 */
zb_status zb_retrieval_run(const zb_select_opts *o, zb_err *err);

#endif
