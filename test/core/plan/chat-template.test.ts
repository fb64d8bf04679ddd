// The chat template of the output: which is chosen, and every place where it is said.
import assert from "node:assert/strict";
import test from "node:test";
import { CHAT_TEMPLATES } from "../../../core/tokenizer/chat-templates.ts";
import { tokenizerBytes } from "../tokenizer/tokenizers.ts";
import { type Documents, makeLlama, planText } from "./checkpoints.ts";

const encode = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
const utf8 = (text: string) => new TextEncoder().encode(text);
const FILES = ["chat_template.jinja", "chat_template.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"];

function plan(chatTemplate: string, documents: Documents, { files = FILES, more = "" } = {}) {
  const text =
    "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}, {model: c}]\n" +
    `chat_template: ${JSON.stringify(chatTemplate)}\n${more}`;
  const a = makeLlama({ vocabulary: 2, sideFiles: files.map((name) => ({ name, bytes: 3 })) });
  const other = makeLlama({ vocabulary: 2 });
  const planned = planText(text, { a, b: other, c: other }, {}, documents);
  const file = (name: string) => {
    const found = planned.sideFiles.find((entry) => entry.name === name);
    return found?.from === "text" ? found.text : found?.from;
  };
  return { file, warnings: planned.warnings };
}

test("a template is written to chat_template.jinja and to the tokenizer's settings; other forms of it go", () => {
  const template = "{% for message in messages %}{{ message.content }}{% endfor %}";
  const documents = { a: { "tokenizer_config.json": encode({ chat_template: "old", eos_token: "</s>" }) } };
  const { file } = plan(template, documents);
  assert.equal(file("chat_template.jinja"), template);
  assert.deepEqual(JSON.parse(file("tokenizer_config.json") ?? ""), { chat_template: template, eos_token: "</s>" });
  assert.deepEqual(
    [file("chat_template.json"), file("tokenizer.json"), file("vocab.json")],
    [undefined, "source", "source"],
  );
  const bare = plan(template, {}, { files: ["tokenizer.json"] });
  assert.deepEqual([bare.file("chat_template.jinja"), bare.file("tokenizer_config.json")], [template, undefined]);
});

test("auto takes the template that most models have, and of equals the first", () => {
  const jinja = (text: string) => ({ "chat_template.jinja": utf8(text) });
  const config = (value: unknown) => ({ "tokenizer_config.json": encode({ chat_template: value }) });
  const chosen = (documents: Documents) => plan("auto", documents).file("chat_template.jinja");
  assert.equal(chosen({ a: jinja("one"), b: jinja("two"), c: config("two\n") }), "two");
  assert.equal(chosen({ a: config("one"), b: jinja("two") }), "one");
  assert.equal(
    chosen({
      b: config([
        { name: "tool_use", template: "x" },
        { name: "default", template: "y" },
      ]),
    }),
    "y",
  );
  assert.equal(chosen({ a: { ...jinja("file"), ...config("setting") } }), "file");
});

test("auto without any template keeps the files and says so", () => {
  const { file, warnings } = plan("auto", {});
  assert.deepEqual(
    FILES.map(file),
    FILES.map(() => "source"),
  );
  assert.ok(warnings.some((warning) => /no model has a template/.test(warning)));
});

test("a name means a template of ours", () => {
  for (const [name, template] of Object.entries(CHAT_TEMPLATES)) {
    assert.equal(plan(name, {}).file("chat_template.jinja"), template);
    const blocks = (pattern: RegExp) => template.match(pattern)?.length ?? 0;
    assert.equal(blocks(/\{%-?/g), blocks(/-?%\}/g), name);
    assert.equal(blocks(/\{%- (?:if|for)/g), blocks(/\{%- end(?:if|for)/g), name);
    assert.match(template, /add_generation_prompt|\[INST\]/, name);
  }
});

test("a template goes with a new vocabulary", () => {
  const documents = Object.fromEntries(
    ["a", "b", "c"].map((name, index) => [
      name,
      { "tokenizer.json": tokenizerBytes({ vocab: { x: 0, [`y${index}`]: 1 } }) },
    ]),
  );
  const { file } = plan("chatml", documents, { more: "tokenizer: {source: union}\n" });
  const config = JSON.parse(file("tokenizer_config.json") ?? "");
  assert.deepEqual([config.chat_template, config.added_tokens_decoder], [CHAT_TEMPLATES.chatml, {}]);
  assert.deepEqual(JSON.parse(file("tokenizer.json") ?? "").model.vocab, { x: 0, y0: 1, y1: 2, y2: 3 });
  assert.deepEqual([file("chat_template.jinja"), file("vocab.json")], [CHAT_TEMPLATES.chatml, undefined]);
});
