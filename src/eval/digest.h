/* digest.h - SHA-256 of bytes as hexadecimal text, for the hashes of samples files. Pure function.
 */
#ifndef ZB_EVAL_DIGEST_H
#define ZB_EVAL_DIGEST_H

#include <stddef.h>

void zb_digest_sha256(const void *bytes, size_t n, char hex[65]);

#endif
