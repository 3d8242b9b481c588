/* footprint.c - sums of what the parts of a pass state (contract in footprint.h).
 *
 * The arena is a stack, so the sums follow the calls: model.c's passes hold one row [N, D] per
 * layer and the layers' tapes (none with recompute), and on top of them either the layer at work or
 * the loss. */
#include "model/footprint.h"

#include "base/file.h"
#include "format/safetensors.h"
#include "model/loss.h"
#include "model/model_impl.h"

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

size_t zb_forward_room(const zb_config *c, const zb_load *load) {
    size_t peak = 0, row = zb_room_of((size_t)load->n * c->D);
    for (int l = 0; l < c->L; l++) {
        size_t alone;
        zb_layer_room(c, l, load, false, &alone);
        peak = most(peak, alone);
    }
    return row + peak;
}

static size_t wide(int rows, int cols) {
    return cols ? zb_room_of((size_t)zb_linear_wide_rows(rows, cols) * (size_t)cols) : 0;
}

size_t zb_unpack_room(const zb_config *c, int n) {
    size_t cols = most((size_t)c->F, most((size_t)c->D, (size_t)c->H * (size_t)c->dh)),
           values = (size_t)n * cols, /* in 8 bits, with a scale and a sum per 32 and sums per 16 */
        integers = values + 2 * (values / 32) * sizeof(float) + values / 16 * sizeof(int16_t);
    int outputs = c->V > c->F ? c->V : c->F; /* no matrix behind D inputs has more rows */
    size_t tile = most(wide(outputs, c->D), most(wide(c->D, c->F), wide(c->D, c->H * c->dh)));
    return most(tile, integers + (size_t)4 * 64);
}

zb_train_room zb_train_room_of(const zb_config *c, const zb_load *load, bool recompute) {
    size_t row = zb_room_of((size_t)load->n * c->D), rows = row, tapes = 0, ahead = 0, back = 0;
    for (int l = 0; l < c->L; l++) {
        size_t alone;
        zb_room r = zb_layer_room(c, l, load, false, &alone);
        rows += row;
        if (recompute) {
            ahead = most(ahead, rows + alone);
            back = most(back, r.tape + most(r.forward, r.backward));
        } else {
            ahead = most(ahead, rows + tapes + r.tape + r.forward);
            tapes += r.tape;
            back = most(back, r.backward);
        }
    }
    size_t pointers = 2 * ((size_t)c->L * sizeof(void *) + 63) / 64 * 64 + 64,
           kept = pointers + rows + tapes + zb_room_of((size_t)load->n);
    back += (recompute ? 3 : 2) * row;
    return (zb_train_room){
        .kept = kept,
        .peak = most(ahead + pointers,
                     kept + most(back, zb_vocab_loss_room(c->V, load->n, true, load->threads)))};
}

static size_t bytes_of(const zb_safetensors *s) {
    size_t total = 0;
    for (size_t i = 0; i < zb_safetensors_count(s); i++) total += zb_safetensors_at(s, i)->bytes;
    return total;
}

static zb_status peek_gguf(const char *path, zb_config *c, size_t *stored, zb_err *err) {
    zb_gguf *g;
    ZB_TRY(zb_gguf_open(&g, path, err));
    for (size_t i = 0; i < zb_gguf_count(g); i++) *stored += zb_gguf_at(g, i)->bytes;
    zb_status s = zb_config_from_gguf(c, g, err);
    zb_gguf_close(g);
    return s;
}

zb_status zb_model_peek(const char *path, zb_config *c, size_t *stored, zb_err *err) {
    *stored = 0;
    if (zb_file_exists(path)) return peek_gguf(path, c, stored, err);
    if (!zb_dir_exists(path))
        return zb_fail(err, ZB_ERR_IO, "%s: no such model folder or .gguf file", path);
    ZB_TRY(zb_config_read(c, path, err));
    zb_arena a = {0};
    bool has = zb_file_exists(zb_path_join(&a, path, "model.safetensors")) ||
               zb_file_exists(zb_path_join(&a, path, "model.safetensors.index.json"));
    zb_arena_free(&a);
    if (!has) return ZB_OK;
    zb_safetensors *file;
    ZB_TRY(zb_safetensors_open_dir(&file, path, err));
    c->tied = !zb_head_is_own(c, file);
    *stored = bytes_of(file);
    zb_safetensors_close(file);
    return ZB_OK;
}
