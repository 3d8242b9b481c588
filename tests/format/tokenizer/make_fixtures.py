"""Small byte-level BPE tokenizers of three families and what the `tokenizers` package makes of many texts.

    python3 tests/format/tokenizer/make_fixtures.py      (needs PyPI tokenizers; made with 0.23.3)

Each family is trained on the sample text below with the pre-tokenizer of its real models, so that
the fixtures are small and complete. `cases.json` holds, for each text, the ids with and without special
tokens parsed and with and without the template's tokens, and the text decoded again.
"""
import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
TAIL = r"[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + TAIL % r"\p{N}{1,3}"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + TAIL % r"\p{N}"

SAMPLE = """
The old miller's daughter walked to the river every morning and counted the boats. She'd say that they're
late, that we've time, that I'm early, that he'll come, that it's raining and that you don't know it.
In 1984 there were 120 boats, in 1999 only 37, and by 2024 the river had 1,250,000 visitors.
Der Müller zählte die Säcke und schrieb die Zahl in ein großes Buch; später kam seine Tochter dazu.
Le meunier a compté les sacs, puis il a fermé la porte. ¿Dónde está la niña? El año que viene, mañana.
Мельник считал мешки и записывал число в большую книгу. Потом пришла его дочь, и они пошли домой.
水車小屋の主人は毎朝袋を数えました。娘は川へ行きました。磨坊主每天早上数袋子，他的女儿去河边。
방앗간 주인은 매일 아침 자루를 세었다. 그의 딸은 강으로 갔다.
كان الطحان يعد الأكياس كل صباح وذهبت ابنته إلى النهر. चक्कीवाला हर सुबह बोरियाँ गिनता था।
Người thợ xay đếm bao mỗi sáng và con gái ông đi ra sông ở Việt Nam.
int main(int argc, char **argv) {
    for (int i = 0; i < argc; i++) {
        printf("%d: %s\\n", i, argv[i]);
    }
\treturn 0;
}
def count(items: list[str]) -> dict[str, int]:
    result = {}
    for item in items:
        result[item] = result.get(item, 0) + 1
    return result
🎉🚀👩‍👩‍👧 emoji and ☕ coffee; e\u0301 and é, a\u0308 and ä, \u1e69 and s\u0323\u0307.
"""

TEXTS = [
    "", " ", "  ", "a", " a", "  a", "   ", "\n", "\n\n\n", "\r\n", "\r\n\r\n", " \n", "\n ", " \n \n  x", "\t\tx", "x\t", "\u00a0x",
    "\u3000 x", "a\u2028b", "a\u0085b", "\u180ea", "\u180e \u180e", "\u200b \u200bx", "\ufeffBOM",
    "Hello, world!", "Hello   world", "It's we'll they've I'M DON'T you'D HE'Ll 's 'S ' s ''s x'sy", "I'\u017f \u017fet '\u017f",
    "don\u2019t it\u2019s", "12345 3.14159 1e-5 0xFF 1234567890123", "1 22 333 4444 55555", "x1y22z333", "\u0663\u0664\u0665\u0666 \u0967\u0968\u0969\u096a",
    "\u00bd \u00bc3 \u2167 \u2460\u2461\u2462 \u00b2\u00b3 \u3007\u4e00\u4e8c", "\u096712\u0968", "\u0e51\u0e52\u0e53\u0e54", "\U0001d7d8\U0001d7d9\U0001d7da\U0001d7db",
    "x = y+1;\n\tif (x > 2) {\r\n\t\treturn x;\n\t}", "def f(a):\n    return a\n\n\ndef g():\n        pass\n",
    "{\"a\": [1, 2, {\"b\": null}]}", "a.b.c->d::e", "!!!???...", "!!!\n\n", "...\r\n\r\nx", " !\n x", "--- a/file\n+++ b/file\n@@ -1,2 +1,3 @@",
    "Việt Nam đẹp", "日本語のテキスト、漢字。", "한국어 텍스트", "Привет, как дела?", "العربية نص", "हिन्दी में", "ภาษาไทยไม่มีช่องว่าง",
    "\U0001f389\U0001f680\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 emoji", "\u2600\ufe0f \u260e\ufe0e 1\ufe0f\u20e3", "\U0001f1e9\U0001f1ea",
    "e\u0301 vs \u00e9", "a\u0308o\u0308u\u0308", "s\u0323\u0307 s\u0307\u0323 \u1e69", "\u1100\u1161\u11a8 \uac01", "\u212b \u00c5 A\u030a",
    "\u0958 \u0915\u093c", "\u2126 \u03a9", "\ufb01 \u00b5 \uff21\uff11", "x\u0301\u0302\u0303\u0304\u0323y", "\u0344 \u0308\u0301", "\u1e9b\u0323",
    "naïve café Straße İstanbul", "\u01c5 \u01c8 \u02b0\u02b1", "\u0000\u0001\u0002\u001f\u007f", "\ud7ff\ue000\uffff\U0010ffff",
    "tabs\t\t\tand   spaces   ", "trailing \n", "a \r b", "a\r\rb", "a\x0bb\x0cc", "\x1c\x1d\x1e\x1f x",
    "<|begin_of_text|>hello<|eot_id|>", "<|begin_of_text|", "<|begin_of_text|><|begin_of_text|>", "a<|start_header_id|>user<|end_header_id|>\n\nhi",
    "x <mask> y", "x  <mask>  y", "<mask><mask>", "<mask> <mask>", "a <wide> b", "a\t <wide>\n b", "<wide> <wide>", " <wide> ", "a<wide>b",
    "word", " word ", "keyword words word's word", "a_word", "word1", "(word)", "éword", "word\u0301", "\u24d0word", "<tool>x</tool>", "<tool><tool_call>",
    "<tool_call", "<tool_cal<tool_call>", "caf\u00e9token cafe\u0301token", "caf\u00e9", "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>x",
    "a" * 300, "ab" * 200, " " * 100 + "x", "the the the " * 40, "miller" * 60, "\n" * 70, "1" * 100, "()[]{}" * 30,
    "xyzzy", "a riverside walk", "riverside xyzzyx",
]


def random_texts(rng):
    """Mixtures of pieces of everything above: edges between classes of characters."""
    parts = [" ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "a", "the", "Miller", "é", "e\u0301", "ß", "水", "주", "ж", "1", "23", "٣", "½", ".", ",",
             "--", "🎉", "\u200d", "\u00a0", "\u3000", "\u0301", "<mask>", "<wide>", "word", "<|eot_id|>", "<|im_end|>", "<tool>", "_", "(", "\u180e", "\u0085"]
    return ["".join(rng.choice(parts) for _ in range(rng.randint(1, 24))) for _ in range(150)]


def train(pre, vocab, special, normalizer=None):
    t = Tokenizer(models.BPE())
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    trainer = trainers.BpeTrainer(vocab_size=vocab, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=special)
    t.train_from_iterator(SAMPLE.split("\n"), trainer)
    t.decoder = decoders.ByteLevel()
    return t


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def llama3():
    t = train(split(LLAMA3), 800, [])
    # Tokens that no merges lead to: with ignore_merges a whole piece is still taken at once.
    o = json.loads(t.to_str())
    o["model"]["ignore_merges"] = True
    for word in ["Ġriverside", "xyzzy"]:
        o["model"]["vocab"][word] = len(o["model"]["vocab"])
    t = Tokenizer.from_str(json.dumps(o))
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in names])
    bos = names[0]
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, t.token_to_id(bos))])])
    return json.loads(t.to_str()), dict(bos_token=bos, eos_token="<|eot_id|>")


def gpt2_digits():
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t = train(pre, 800, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.add_tokens([AddedToken("<mask>", lstrip=True, special=False, normalized=False), AddedToken("<wide>", lstrip=True, rstrip=True, normalized=False),
                  AddedToken("word", single_word=True, normalized=True), AddedToken("<tool>", normalized=True),
                  AddedToken("<tool_call>", normalized=False)])
    o = json.loads(t.to_str())
    o["model"]["merges"] = [" ".join(m) for m in o["model"]["merges"]]  # the older way of writing them
    return o, dict(bos_token="<|im_start|>", eos_token={"content": "<|im_end|>", "lstrip": False})


def qwen2():
    t = train(split(QWEN2), 800, [], normalizers.NFC())
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]])
    t.add_tokens([AddedToken("cafe\u0301token", normalized=True), AddedToken("<tool>", normalized=False), AddedToken("<tool_call>", normalized=False)])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return json.loads(t.to_str()), dict(bos_token=None, eos_token="<|im_end|>")


def cases(t, texts):
    out = []
    for text in texts:
        row = {"text": text}
        for parse in (False, True):
            t.encode_special_tokens = not parse
            ids = t.encode(text, add_special_tokens=False).ids
            row["parsed" if parse else "plain"] = ids
        row["with_template"] = t.encode(text, add_special_tokens=True).ids
        row["decoded"] = t.decode(row["with_template"], skip_special_tokens=False)
        row["decoded_skip"] = t.decode(row["with_template"], skip_special_tokens=True)
        out.append(row)
    return out


for name, make in dict(llama3=llama3, gpt2_digits=gpt2_digits, qwen2=qwen2).items():
    folder = os.path.join(HERE, name)
    os.makedirs(folder, exist_ok=True)
    tokenizer, config = make()
    path = os.path.join(folder, "tokenizer.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(tokenizer, f, ensure_ascii=name == "qwen2", separators=(",", ":"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    t = Tokenizer.from_file(path)
    texts = TEXTS + SAMPLE.strip().split("\n") + [SAMPLE] + random_texts(random.Random(7))
    with open(os.path.join(folder, "cases.json"), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, ensure_ascii=True, separators=(",", ":")) for c in cases(t, texts)) + "\n]\n")
    print(name, t.get_vocab_size(), os.path.getsize(path))
