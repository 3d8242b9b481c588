/* mixer.c - the table of mixer kinds. */
#include "model/mixer.h"

const zb_mixer *zb_mixer_of(zb_kind k) {
    static const zb_mixer *const table[ZB_KIND_COUNT] = {
        [ZB_ATTENTION] = &zb_mixer_attention,
        [ZB_MLA] = &zb_mixer_mla,
        [ZB_MAMBA2] = &zb_mixer_mamba2,
        [ZB_SLIDING_WINDOW] = &zb_mixer_sliding_window,
        [ZB_WINDOWED_MAMBA2] = &zb_mixer_windowed_mamba2,
        [ZB_GATED_DELTANET] = &zb_mixer_gated_deltanet,
        [ZB_WINDOWED_DELTANET] = &zb_mixer_windowed_deltanet,
    };
    ZB_ASSERT((unsigned)k < ZB_KIND_COUNT);
    return table[k];
}
