/* gguf_layout.h - how a model's parameters stand in a GGUF file; for load_gguf.c and save_gguf.c.
 *
 * In the architecture `zebra` names and rows are the checkpoint's own. In `llama` names are those
 * other programs know, and the rows of q and k are moved for adjacent rotary pairs; in `qwen2`,
 * which is only read, they are not. */
#ifndef ZB_MODEL_GGUF_LAYOUT_H
#define ZB_MODEL_GGUF_LAYOUT_H

#include "model/params.h"

enum { ZB_GGUF_NAME_MAX = 96 };
extern const char zb_gguf_rope_freqs[]; /* the tensor of divisors, [dh/2] */

/* Name of a parameter in the file; NULL: the architecture has none. */
const char *zb_gguf_name(const zb_param *p, bool llama, char out[ZB_GGUF_NAME_MAX]);
/* Of the tensor of its wide rows. */
const char *zb_gguf_wide_name(const zb_param *p, char out[ZB_GGUF_NAME_MAX]);

/* The file's row of each of our rows (values of a bias), in the arena; NULL: the same. */
int *zb_gguf_rows(const zb_config *c, const zb_param *p, bool llama, zb_arena *a);

/* By what Llama 3's scaling divides the frequency of rotary pair i. */
double zb_gguf_rope_divisor(const zb_config *c, int i);

#endif
