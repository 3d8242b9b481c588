/* contents.h - whether the files that options name still hold what they held.
 *
 * A path says where a text lies, not what stands in it. What is made of a text or a model keeps a
 * fingerprint of it beside the path: its length and 64 bits of its bytes, of all where it has at
 * most 16 MiB, else of 256 pieces that are spread over it from its beginning on, and of its end.
 * That finds what people do to files (write them anew, add to them, cut them); it is no proof
 * against forgery, nor against an edit between the pieces that keeps the length. */
#ifndef ZB_BASE_CONTENTS_H
#define ZB_BASE_CONTENTS_H

#include "base/arena.h"

#include <jansson.h>

/* Does a file of this name in a model's folder say what the model is: *.safetensors, *config.json?
 */
bool zb_contents_counts(const char *name);

/* Of a file, or of those files of a model's folder; NULL where there is neither. In the arena. */
const char *zb_contents_of(const char *path, zb_arena *a);

/* Adds to options, for each that names such a file or folder, "<name> (contents)". Where the file
 * is gone it has those of `before` (NULL: none), since nobody can tell. */
void zb_contents_add(json_t *options, const json_t *before);

/* Is it the name of such a member? */
bool zb_contents_is(const char *name);

/* For options of earlier versions, which kept none: to `defaults` what `options` has been given. */
void zb_contents_assume(json_t *defaults, const json_t *options);

#endif
