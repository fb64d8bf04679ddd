// Models with adapters: which tensors are read with which update, what replaces what, and what is refused.
import assert from "node:assert/strict";
import test from "node:test";
import type { Checkpoint } from "../../../core/checkpoint.ts";
import { assertRefused } from "../../refusal.ts";
import { tokenizerBytes } from "../tokenizer/tokenizers.ts";
import { configOf, makeCheckpoint, makeLlama, planText, type Shapes, tensorOf } from "./checkpoints.ts";

const encode = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
const CONFIG = { peft_type: "LORA", r: 2, lora_alpha: 4 };
const Q0 = "model.layers.0.self_attn.q_proj";
const UP0 = "model.layers.0.mlp.up_proj";
const EMBED = "model.embed_tokens";
const factors = (module: string, rank: number, inputs: number, outputs: number): Shapes => ({
  [`base_model.model.${module}.lora_A.weight`]: [rank, inputs],
  [`base_model.model.${module}.lora_B.weight`]: [outputs, rank],
});

type Parts = {
  readonly base?: Checkpoint;
  readonly config?: Record<string, unknown>;
  readonly sideFiles?: readonly string[];
  readonly documents?: Record<string, Record<string, Uint8Array>>;
  readonly more?: string;
};

/** base+lora and other, averaged; sources are base, lora, other. */
function plan(
  adapter: Shapes,
  { base = makeLlama(), config = {}, sideFiles = [], documents = {}, more = "" }: Parts = {},
) {
  const text = `merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: base+lora}, {model: other}]\n${more}`;
  const files = sideFiles.map((name) => ({ name, bytes: 9 }));
  const models = { base, lora: makeCheckpoint(adapter, { sideFiles: files }), other: base };
  const configs = { lora: { "adapter_config.json": encode({ ...CONFIG, ...config }), ...documents.lora } };
  return planText(text, models, {}, { ...documents, ...configs });
}

const updateOf = (merged: ReturnType<typeof plan>, name: string) => tensorOf(merged, name).inputs[0]?.lora;

test("a weight is read with the product of its factors, everything else as it is", () => {
  const merged = plan({ ...factors(Q0, 2, 4, 4), ...factors(UP0, 2, 4, 6) });
  const [adapted, other] = tensorOf(merged, `${UP0}.weight`).inputs;
  assert.deepEqual([adapted?.source, adapted?.model, other?.source, other?.model], [0, "base+lora", 2, undefined]);
  assert.equal(other?.lora, undefined);
  const { rank, scale, left, right } = adapted?.lora ?? {};
  assert.deepEqual([rank, scale], [2, 2]);
  assert.deepEqual([left?.source, left?.tensor, left?.swapped], [1, `base_model.model.${UP0}.lora_B.weight`, false]);
  assert.deepEqual(
    [right?.tensor, right?.shape, right?.swapped],
    [`base_model.model.${UP0}.lora_A.weight`, [2, 4], false],
  );
  assert.equal(updateOf(merged, "model.norm.weight"), undefined);
  assert.equal(
    tensorOf(merged, "model.norm.weight").inputs[0]?.model,
    "base+lora",
    "the name that draws random numbers",
  );
});

test("embeddings, and weights stored [in, out], are updated by the product turned round", () => {
  const embedding = {
    [`base_model.model.${EMBED}.lora_embedding_A`]: [2, 10],
    [`base_model.model.${EMBED}.lora_embedding_B`]: [4, 2],
  };
  const { left, right } = updateOf(plan(embedding), `${EMBED}.weight`) ?? {};
  assert.deepEqual(
    [left?.tensor, left?.swapped, right?.tensor, right?.swapped],
    [`base_model.model.${EMBED}.lora_embedding_A`, true, `base_model.model.${EMBED}.lora_embedding_B`, true],
  );
  // up_proj is [6, 4] here: factors of a layer from 6 to 4 fit only the other way round.
  assert.equal(updateOf(plan(factors(UP0, 2, 6, 4)), `${UP0}.weight`)?.left.swapped, true);
  // q_proj is square: the config decides.
  assert.equal(updateOf(plan(factors(Q0, 2, 4, 4)), `${Q0}.weight`)?.left.swapped, false);
  const turned = plan(factors(Q0, 2, 4, 4), { config: { fan_in_fan_out: true } });
  assert.equal(updateOf(turned, `${Q0}.weight`)?.left.swapped, true);
});

test("a convolution is a matrix of its first axis by the rest", () => {
  const base = makeCheckpoint({ "conv.weight": [6, 3, 2, 2] }, { config: {} });
  const merged = plan(
    { "base_model.model.conv.lora_A.weight": [2, 3, 2, 2], "base_model.model.conv.lora_B.weight": [6, 2, 1, 1] },
    { base },
  );
  assert.deepEqual(updateOf(merged, "conv.weight")?.right?.shape, [2, 3, 2, 2]);
});

test("a trained bias of the update is added to the module's bias", () => {
  const base = makeCheckpoint({ "fc.weight": [6, 4], "fc.bias": [6] }, { config: {} });
  const merged = plan({ ...factors("fc", 2, 4, 6), "base_model.model.fc.lora_B.bias": [6] }, { base });
  const update = updateOf(merged, "fc.bias");
  assert.deepEqual(
    [update?.rank, update?.scale, update?.left.tensor, update?.right],
    [1, 2, "base_model.model.fc.lora_B.bias", undefined],
  );
});

test("tensors that the adapter holds whole take the model's place, new ones join it", () => {
  const merged = plan(
    { ...factors(Q0, 2, 4, 4), "base_model.model.model.norm.weight": [4], "base_model.model.score.weight": [3, 4] },
    { more: "allow_unlisted: copy\n" },
  );
  const norm = tensorOf(merged, "model.norm.weight").inputs[0];
  assert.deepEqual([norm?.source, norm?.tensor], [1, "base_model.model.model.norm.weight"]);
  assert.equal(tensorOf(merged, "score.weight").inputs[0]?.source, 1);
  assert.ok(
    merged.warnings.some((warning) => /that its model lacks are added: score.weight/.test(warning)),
    String(merged.warnings),
  );
});

test("an adapter trained on a part of the model, or on the model inside another, finds its tensors", () => {
  assert.ok(updateOf(plan(factors("layers.0.self_attn.q_proj", 2, 4, 4)), `${Q0}.weight`));
  assert.ok(updateOf(plan(factors(`language_model.${Q0}`, 2, 4, 4)), `${Q0}.weight`));
});

/** Two experts, named as `gate`, `up` and `down` say: hidden 4, inner 3. */
const makeExperts = (path: string, [gate, up, down]: readonly [string, string, string], more: Shapes = {}) => {
  const shapes = [0, 1].flatMap((expert): [string, readonly number[]][] => [
    [`${path}.experts.${expert}.${gate}.weight`, [3, 4]],
    [`${path}.experts.${expert}.${up}.weight`, [3, 4]],
    [`${path}.experts.${expert}.${down}.weight`, [4, 3]],
  ]);
  return makeCheckpoint({ ...Object.fromEntries(shapes), ...more }, { config: {} });
};
const MLP = "model.layers.0.mlp";
const SPARSE = "model.layers.0.block_sparse_moe";
/** As PEFT saves them: the stack of gates and ups lies inside, and `down_proj` around it. */
const STACKED: Shapes = {
  ...factors(`${MLP}.experts.base_layer`, 6, 4, 6),
  ...factors(`${MLP}.experts`, 4, 3, 4),
};
const ON_STACKS = { target_parameters: ["gate_up_proj", "down_proj"], rank_pattern: { ".*\\.gate_up_proj": 3 } };

test("an adapter on stacks of experts updates each expert's tensors by its share of the factors", () => {
  const mixtral = plan(STACKED, { base: makeExperts(SPARSE, ["w1", "w3", "w2"]), config: ON_STACKS });
  const up = updateOf(mixtral, `${SPARSE}.experts.1.w3.weight`);
  assert.deepEqual([up?.rank, up?.scale], [3, 4 / 3]);
  assert.deepEqual([up?.left.shape, up?.left.part, up?.left.swapped], [[3, 6], { step: 2, first: 1 }, false]);
  assert.deepEqual([up?.right?.shape, up?.right?.part], [[3, 4], { step: 1, first: 0 }]);
  // The last 3 of B's 6 rows of 6, and the last 3 of A's 6 rows of 4: float32, after what lies before them.
  assert.deepEqual(
    [up?.left.ranges, up?.right?.ranges],
    [
      [{ file: "model.safetensors", offset: 1000 + 96 + 72, bytes: 72 }],
      [{ file: "model.safetensors", offset: 1000 + 48, bytes: 48 }],
    ],
  );
  const gate = updateOf(mixtral, `${SPARSE}.experts.0.w1.weight`);
  assert.deepEqual([gate?.left.ranges[0]?.offset, gate?.left.part?.first], [1000 + 96, 0]);
  const down = updateOf(mixtral, `${SPARSE}.experts.1.w2.weight`);
  assert.deepEqual([down?.rank, down?.scale, down?.left.shape], [2, 2, [4, 4]]);
  assert.equal(down?.left.tensor, `base_model.model.${MLP}.experts.lora_B.weight`);
  const qwen = makeExperts(MLP, ["gate_proj", "up_proj", "down_proj"]);
  const own = updateOf(plan(STACKED, { base: qwen, config: ON_STACKS }), `${MLP}.experts.1.up_proj.weight`);
  assert.deepEqual(own?.left.ranges, up?.left.ranges);
});

test("refused: factors of a stack that fit no experts of the model", () => {
  const base = makeExperts(SPARSE, ["w1", "w3", "w2"]);
  assertRefused(() => plan(STACKED, { config: ON_STACKS }), {
    code: "PlanAdapterUnmatched",
    expected: `${MLP}.experts.0.down_proj.weight`,
  });
  const wide = factors(`${MLP}.experts`, 4, 5, 4);
  assertRefused(() => plan(wide, { base, config: ON_STACKS }), {
    code: "PlanAdapterInvalid",
    found: "an update of [4, 5]",
  });
  assertRefused(() => plan(STACKED, { base, config: { target_parameters: ["gate_up_proj"] } }), {
    code: "PlanAdapterInvalid",
    expected: "rank 2 of 2 experts",
  });
  const odd = factors(`${MLP}.experts`, 5, 3, 4);
  assertRefused(() => plan(odd, { base, config: ON_STACKS }), { code: "PlanAdapterInvalid", found: "[4,5] x [5,3]" });
});

test("names that transformers 5 gives modules find those of the checkpoint", () => {
  const names: readonly (readonly [newer: string, older: string])[] = [
    ["lm_head", "embed_out"],
    [`${MLP}.gate`, `${SPARSE}.gate`],
    [`${MLP}.router`, `${SPARSE}.gate`],
    [`${SPARSE}.router`, `${SPARSE}.router.layer`],
    ["model.language_model.layers.0.q", "language_model.model.layers.0.q"],
    ["model.language_model.layers.0.q", "model.layers.0.q"],
    ["model.layers.0.mixer.in_proj", "backbone.layers.0.mixer.in_proj"],
  ];
  for (const [newer, older] of names) {
    const base = makeCheckpoint({ [`${older}.weight`]: [6, 4] }, { config: {} });
    assert.ok(updateOf(plan(factors(newer, 2, 4, 6), { base }), `${older}.weight`), `${newer} is ${older}`);
  }
  const base = makeCheckpoint({ "embed_out.weight": [6, 4] }, { config: {} });
  const whole = plan({ "base_model.model.lm_head.weight": [6, 4] }, { base });
  assert.equal(tensorOf(whole, "embed_out.weight").inputs[0]?.source, 1);
});

test("config and files come from the model, licences from both, and the card lists both", () => {
  const merged = plan(factors(Q0, 2, 4, 4), {
    base: makeLlama({ sideFiles: [{ name: "tokenizer.json", bytes: 4 }] }),
    sideFiles: ["LICENSE", "adapter_config.json", "tokenizer.json"],
  });
  assert.equal(configOf(merged).vocab_size, 10);
  const files = merged.sideFiles.flatMap((file) => (file.from === "source" ? [[file.name, file.source]] : []));
  assert.deepEqual(files, [
    ["LICENSE.lora", 1],
    ["tokenizer.json", 0],
  ]);
  const card = merged.sideFiles.find(({ name }) => name === "README.md");
  assert.match(card?.from === "text" ? card.text : "", /\| base \| .*\n\| lora \| .*\n\| other \|/);
});

test("an adapter with embeddings of its own brings its vocabulary and its tokenizer", () => {
  const tokens = (count: number) =>
    tokenizerBytes({ vocab: Object.fromEntries(Array.from({ length: count }, (_, id) => [`t${id}`, id])) });
  const merged = plan(
    { [`base_model.model.${EMBED}.weight`]: [12, 4], "base_model.model.lm_head.weight": [12, 4] },
    {
      base: makeLlama({ tied: true }),
      sideFiles: ["tokenizer.json"],
      documents: {
        base: { "tokenizer.json": tokens(10) },
        other: { "tokenizer.json": tokens(10) },
        lora: { "tokenizer.json": tokens(12) },
      },
      more: "tokenizer: {source: union}\n",
    },
  );
  assert.deepEqual(tensorOf(merged, `${EMBED}.weight`).shape, [12, 4]);
  const [own, other] = tensorOf(merged, `${EMBED}.weight`).inputs;
  assert.deepEqual(
    [own?.source, own?.rows, other?.rows?.runs],
    [
      1,
      undefined,
      [
        [0, 0, 10],
        [1, 10, 2],
      ],
    ],
  );
  assert.equal(configOf(merged).tie_word_embeddings, false, "the adapter's head is its own");
});

const WTE = {
  [`base_model.model.${EMBED}.lora_embedding_A`]: [2, 10],
  [`base_model.model.${EMBED}.lora_embedding_B`]: [4, 2],
};
const TIED = { tied: true, head: false };

test("an embedding that has factors and is saved whole as well is the one that is saved, updated", () => {
  const saved = { [`base_model.model.${EMBED}.base_layer.weight`]: [10, 4] };
  for (const parts of [
    { ...saved, ...WTE },
    { ...WTE, ...saved },
  ]) {
    const [own] = tensorOf(plan(parts), `${EMBED}.weight`).inputs;
    assert.deepEqual([own?.source, own?.tensor], [1, `base_model.model.${EMBED}.base_layer.weight`]);
    assert.equal(own?.lora?.left.tensor, `base_model.model.${EMBED}.lora_embedding_A`);
  }
});

test("a tied head stays what the embedding was where the adapter changes the embedding alone", () => {
  const headOf = (adapter: Shapes, base: Checkpoint) => {
    const merged = plan(adapter, { base });
    const head = merged.units.flatMap(({ tensors }) => tensors).find(({ name }) => name === "lm_head.weight");
    return { head: head?.inputs.map(({ source, tensor, lora }) => [source, tensor, lora]), config: configOf(merged) };
  };
  for (const adapter of [WTE, { [`base_model.model.${EMBED}.weight`]: [10, 4] }]) {
    const { head, config } = headOf(adapter, makeLlama(TIED));
    const embedding = `${EMBED}.weight`;
    assert.deepEqual(head, [
      [0, embedding, undefined],
      [2, embedding, undefined],
    ]);
    assert.equal(config.tie_word_embeddings, false);
  }
  assert.equal(headOf(factors(Q0, 2, 4, 4), makeLlama(TIED)).head, undefined, "the embedding is the model's");
  const other = { ...TIED, config: { architectures: ["LlamaModel"] } };
  assert.equal(headOf(WTE, makeLlama(other)).head, undefined, "a model without a head");
  const grown = { [`base_model.model.${EMBED}.weight`]: [12, 4] };
  const { head, config } = headOf({ ...grown, "base_model.model.lm_head.weight": [12, 4] }, makeLlama(TIED));
  assert.equal(head?.[0]?.[1], "base_model.model.lm_head.weight");
  assert.equal(config.tie_word_embeddings, false);
});

test("factors of a head that the model ties to its embedding update what the embedding is", () => {
  const merged = plan(factors("lm_head", 2, 4, 10), { base: makeLlama(TIED) });
  const [head, embedding] = ["lm_head.weight", `${EMBED}.weight`].map((name) => tensorOf(merged, name).inputs[0]);
  assert.deepEqual([head?.source, head?.tensor], [0, `${EMBED}.weight`]);
  assert.equal(head?.lora?.left.tensor, "base_model.model.lm_head.lora_B.weight");
  assert.equal(embedding?.lora, undefined);
  assert.equal(configOf(merged).tie_word_embeddings, false);
});

test("several references may share a model or an adapter; each is opened once", () => {
  const text =
    "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: base}, {model: base+lora}, {model: other+lora}]\n";
  const models = { base: makeLlama(), lora: makeCheckpoint(factors(Q0, 2, 4, 4)), other: makeLlama() };
  const merged = planText(text, models, {}, { lora: { "adapter_config.json": encode(CONFIG) } });
  assert.deepEqual(
    tensorOf(merged, `${Q0}.weight`).inputs.map(({ source, lora, model }) => [source, lora?.left.source, model]),
    [
      [0, undefined, undefined],
      [0, 1, "base+lora"],
      [2, 1, "other+lora"],
    ],
  );
});

test("refused: what is no adapter, fits no tensor, or contradicts its config", () => {
  const one = { [`base_model.model.${Q0}.lora_A.weight`]: [2, 4] };
  assertRefused(
    () =>
      planText("merge_method: linear\nmodels: [{model: base+lora, parameters: {weight: 1}}]\n", {
        base: makeLlama(),
        lora: makeLlama(),
      }),
    {
      code: "PlanAdapterInvalid",
      model: "lora",
      file: "lora/adapter_config.json",
      found: "no such file",
    },
  );
  assertRefused(() => plan(factors("model.layers.9.self_attn.q_proj", 2, 4, 4)), {
    code: "PlanAdapterUnmatched",
    model: "lora",
    expected: "model.layers.9.self_attn.q_proj.weight",
  });
  assertRefused(() => plan(factors("up_proj", 2, 4, 6)), { code: "PlanAdapterUnmatched" });
  assertRefused(() => plan(one), { code: "PlanAdapterInvalid", found: "one factor" });
  assertRefused(() => plan(factors(Q0, 3, 4, 4)), { code: "PlanAdapterInvalid", found: "rank 3" });
  assertRefused(() => plan(factors(Q0, 2, 5, 4)), { code: "PlanAdapterInvalid", found: "[4, 2] x [2, 5]" });
  assertRefused(() => plan(factors(Q0, 2, 4, 4), { config: { use_dora: true } }), {
    code: "PlanAdapterNotSupported",
    field: "use_dora",
  });
  for (const field of ["use_bdlora", "kasa_config", "arrow_config"]) {
    const asked = { code: "PlanAdapterNotSupported", field };
    assertRefused(() => plan(factors(Q0, 2, 4, 4), { config: { [field]: { rank: 2 } } }), asked);
  }
  const whole = makeCheckpoint({ [`${Q0}.weight`]: { dtype: "I8", shape: [4, 4] } }, { config: {} });
  assertRefused(() => plan(factors(Q0, 2, 4, 4), { base: whole }), {
    code: "PlanAdapterInvalid",
    found: `I8 in ${Q0}.weight`,
  });
});
