/* session.h - the inside view of a session (public part: zebra.h).
 *
 * For whoever runs passes of his own over a session's state, as scoring does. */
#ifndef ZB_GENERATE_SESSION_H
#define ZB_GENERATE_SESSION_H

#include "generate/engine.h"

zb_engine *zb_session_engine(const zb_session *s);
size_t zb_session_bytes(const zb_session *s); /* held: states, snapshots, logits */

#endif
