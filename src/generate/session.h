/* session.h - the inside view of a session (public part: zebra.h).
 *
 * For whoever runs passes of his own over a session's state, as scoring does, or fills it, as a
 * benchmark does. */
#ifndef ZB_GENERATE_SESSION_H
#define ZB_GENERATE_SESSION_H

#include "generate/engine.h"
#include "model/state.h"

zb_engine *zb_session_engine(const zb_session *s);
zb_state *zb_session_state(zb_session *s);                    /* valid until the session grows */
zb_status zb_session_hold(zb_session *s, int n, zb_err *err); /* room for n tokens at once */
size_t zb_session_bytes(const zb_session *s);                 /* held: states, snapshots, logits */

#endif
