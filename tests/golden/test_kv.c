/* Cache size in percent of the base model's, as the papers report it, for the published
 * configurations (kv_percent.json). */
#include "golden.h"

#include "base/json.h"

static int64_t number(const json_t *row, const char *key) {
    int64_t v = 0;
    CHECK(zb_json_int(row, "kv_percent.json", key, true, 1, 1 << 20, &v, &err));
    return v;
}

static void test_published(void **state) {
    (void)state;
    json_t *rows;
    CHECK(zb_json_read("tests/golden/kv_percent.json", 1 << 20, &rows, &err));
    assert_true(json_array_size(rows) >= 6);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        int n_mla = (int)number(row, "mla_layers"), r = (int)number(row, "kv_lora_rank"),
            dr = (int)number(row, "rope_dim");
        double want = 0;
        CHECK(zb_json_f64(row, "kv_percent.json", "kv_percent", true, &want, &err));
        zb_config c = {.model_type = "llama",
                       .L = (int)number(row, "layers"),
                       .G = (int)number(row, "kv_heads"),
                       .dh = (int)number(row, "head_dim"),
                       .F = 8192,
                       .V = 128256,
                       .context_max = 131072,
                       .eps = 1e-5,
                       .tied = true,
                       .hybrid = true};
        c.H = 4 * c.G;
        c.D = c.H * c.dh;
        c.rope = c.mla_rope =
            (zb_rope){.theta = 500000, .factor = 1, .beta_fast = 32, .beta_slow = 1, .mscale = 1};
        for (int l = 0; l < c.L; l++) {
            c.layer[l].kind = ZB_MAMBA2;
            if (l * n_mla / c.L != (l + 1) * n_mla / c.L) /* n_mla layers, spread */
                c.layer[l] = (zb_layer_config){.kind = ZB_MLA,
                                               .r_q = 1344,
                                               .r_kv = r,
                                               .d_nope = c.dh - dr,
                                               .d_rope = dr,
                                               .d_v = c.dh};
        }
        CHECK(zb_config_check(&c, "published", &err));
        double got = zb_config_kv_percent(&c);
        if (!(fabs(got - want) <= 1e-12 * want))
            fail_msg("row %zu: got %.17g, want %.17g", i, got, want);
        /* the same from the layers' own sizes; the base model itself is 100 % */
        int cache = 0, n = 0;
        for (int l = 0; l < c.L; l++)
            cache += zb_config_cache(&c, l), n += c.layer[l].kind == ZB_MLA;
        assert_int_equal(n, n_mla);
        assert_int_equal(cache, n_mla * (r + dr));
        for (int l = 0; l < c.L; l++) c.layer[l] = (zb_layer_config){.kind = ZB_ATTENTION};
        assert_true(zb_config_kv_percent(&c) == 100);
    }
    json_decref(rows);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_published)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
