/* save_gguf.h - a model as a GGUF file, rows made as they are written.
 *
 * The caller gives the description, a type for each parameter and a function that makes rows in
 * that type: converting, quantising or inventing them. No parameter is ever held whole, so the file
 * may be larger than memory. Readable by zb_model_open, and by other programs where the
 * architecture is `llama` (config.h). */
#ifndef ZB_MODEL_SAVE_GGUF_H
#define ZB_MODEL_SAVE_GGUF_H

#include "format/tokenizer.h"
#include "model/params.h"

typedef struct zb_gguf_save {
    const zb_config *config;
    const zb_param_table *params;  /* names and shapes; values are the business of `rows` */
    const zb_dtype *type;          /* [params->n]; vectors, gates and norms must be F32 */
    const zb_tokenizer *tokenizer; /* NULL: none */
    const json_t *provenance;      /* NULL: none */
    const char *name;              /* general.name; NULL: none */
    /* Rows row[0..n) of parameter p in `type` into `out` (whole rows, packed one behind the
     * other). A vector is one row. */
    zb_status (*rows)(void *user, const zb_param *p, zb_dtype type, const int *row, int n,
                      void *out, zb_err *err);
    void *user;
} zb_gguf_save;

zb_status zb_gguf_save_model(const char *path, const zb_gguf_save *s, zb_err *err);

/* Whether matrix p gets a second tensor of wide rows when it is stored in `type`, and its bytes. */
size_t zb_gguf_wide_bytes(const zb_param *p, zb_dtype type);

#endif
