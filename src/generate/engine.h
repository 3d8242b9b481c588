/* engine.h - the inside view of an engine, for the folders above (public part: zebra.h).
 *
 * An engine owns its model, tokenizer (NULL where the model has none that can be read) and one
 * runner, whose arena and matrix-product context all passes of its sessions share; so one thread at
 * a time. */
#ifndef ZB_GENERATE_ENGINE_H
#define ZB_GENERATE_ENGINE_H

#include "base/err.h"

#include "format/tokenizer.h"
#include "model/model.h"
#include "zebra.h"

enum { ZB_CHUNK = 512 }; /* most tokens of a prompt in one pass */

zb_model *zb_engine_model(const zb_engine *e);
zb_runner *zb_engine_runner(const zb_engine *e);
const zb_tokenizer *zb_engine_tokenizer(const zb_engine *e); /* NULL: none */
zb_precision zb_engine_precision(const zb_engine *e);
int zb_engine_threads(const zb_engine *e);

/* ZB_ERR_CONFIG unless the engine has a tokenizer; the message says which file was expected; the
 * status and message of its reader where that failed. */
zb_status zb_engine_need_tokenizer(const zb_engine *e, zb_err *err);

#endif
