/* mixer.c - the table of mixer kinds. */
#include "model/mixer.h"

const zb_mixer *zb_mixer_of(zb_kind k) {
    static const zb_mixer *const table[ZB_KIND_COUNT] = {&zb_mixer_attention, &zb_mixer_mla,
                                                         &zb_mixer_mamba2};
    ZB_ASSERT((unsigned)k < ZB_KIND_COUNT);
    return table[k];
}
