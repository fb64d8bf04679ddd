// Folders that other tools quantized, in forms that `mergeyard quantize` does not write: every value that they stand
// for, and what is refused of those that do not belong together. The words are packed here, one code at a time.
import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeSafetensorsFile, type TensorSpec } from "../../core/formats/safetensors/safetensors.ts";
import { convertStep } from "../../steps/convert/convert.ts";
import { diffStep } from "../../steps/diff.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { runStep } from "../../steps/step.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { refusal } from "../refusal.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";

const MODULE = "model.layers.0.mlp.up_proj";

type Part = Omit<TensorSpec, "name"> & { readonly bytes: Uint8Array };
type Parts = Readonly<Record<string, Part>>;
type Folder = { readonly config: Readonly<Record<string, unknown>>; readonly parts: Parts };

const bytesOf = ({ buffer }: ArrayBufferView) => new Uint8Array(buffer);
const words = (shape: number[], values: readonly number[]): Part => {
  return { dtype: "I32", shape, bytes: bytesOf(Int32Array.from(values)) };
};
const floats = (shape: number[], values: readonly number[]): Part => {
  return { dtype: "F32", shape, bytes: bytesOf(Float32Array.from(values)) };
};
const halves = (shape: number[], values: readonly number[]): Part => {
  return { dtype: "F16", shape, bytes: bytesOf(Float16Array.from(values)) };
};
const octets = (shape: number[], values: Iterable<number>): Part => {
  return { dtype: "U8", shape, bytes: Uint8Array.from(values) };
};
const text = (value: string) => octets([value.length], new TextEncoder().encode(value));

/** Numbers of a list, by index. */
const list = (count: number, make: (index: number) => number) => Array.from({ length: count }, (_, i) => make(i));

/** One word of eight codes, the first lowest. */
const pack = (codeOf: (index: number) => number) =>
  list(8, codeOf).reduce((word, code, i) => word | (code << (4 * i)), 0);

async function putFolder({ config, parts }: Folder): Promise<ObjectStore> {
  const store = newStore();
  const all: Parts = { bias: floats([2], [1, 2]), ...parts };
  const specs = Object.entries(all).map(([name, { dtype, shape }]) => ({ name: `${MODULE}.${name}`, dtype, shape }));
  const file = encodeSafetensorsFile(specs, ({ name }) => all[name.slice(MODULE.length + 1)]?.bytes);
  await writeBytes(store, "model.safetensors", file);
  await putText(store, "config.json", JSON.stringify({ model_type: "llama", quantization_config: config }));
  return store;
}

/** The weight that the folder's module stands for, as conversion writes it. */
async function weightOf(folder: Folder): Promise<Float32Array> {
  const [store, target] = [await putFolder(folder), newStore()];
  const deps = testDeps(openerOf(store, target));
  await runStep(convertStep, { source: store.uri, target: target.uri, to: "safetensors" }, deps);
  // What compares checkpoints reads the same values from the parts.
  const { equal, changed } = await runStep(diffStep, { a: { folder: store.uri }, b: { folder: target.uri } }, deps);
  assert.deepEqual([equal, changed], [2, []]);
  const { checkpoint } = await openCheckpoint(target, "");
  assert.deepEqual(checkpoint.tensors.map(({ name }) => name).sort(), [`${MODULE}.bias`, `${MODULE}.weight`]);
  const range = checkpoint.tensors.find(({ name }) => name.endsWith("weight"))?.ranges[0];
  assert.ok(range !== undefined);
  const bytes = new Uint8Array(range.bytes);
  await target.readInto(range.file, range.offset, bytes);
  return new Float32Array(bytes.buffer);
}

const code = (row: number, column: number) => (3 * row + 5 * column) % 16;

/** [32 outputs, 32 inputs], groups of 16; the second group's columns come first. */
const GPTQ: Folder = {
  config: { quant_method: "gptq", bits: 4, group_size: 16, desc_act: true, checkpoint_format: "gptq_v2" },
  parts: {
    qweight: words(
      [4, 32],
      list(128, (at) => pack((i) => code(at % 32, 8 * Math.floor(at / 32) + i))),
    ),
    scales: halves(
      [2, 32],
      list(64, (at) => (at < 32 ? 0.5 : 0.25)),
    ),
    qzeros: words(
      [2, 4],
      list(8, (at) => pack((i) => (at < 4 ? i : 7))),
    ),
    g_idx: words(
      [32],
      list(32, (column) => (column < 16 ? 1 : 0)),
    ),
  },
};

/** [8 outputs, 16 inputs], one group. */
const AWQ: Folder = {
  config: { quant_method: "awq", w_bit: 4, q_group_size: -1, version: "GEMM", zero_point: true },
  parts: {
    qweight: words(
      [16, 1],
      list(16, (column) => pack((i) => code([0, 2, 4, 6, 1, 3, 5, 7][i] ?? 0, column))),
    ),
    scales: halves(
      [1, 8],
      list(8, (row) => 2 ** -row),
    ),
    qzeros: words([1, 1], [pack((i) => [0, 2, 4, 6, 1, 3, 5, 7][i] ?? 0)]),
  },
};

const STATE = {
  quant_type: "fp4",
  blocksize: 64,
  dtype: "bfloat16",
  shape: [2, 64],
  nested_blocksize: 256,
  nested_dtype: "float32",
  nested_offset: 0.5,
};
const STATE_NAME = "weight.quant_state.bitsandbytes__fp4";

/** [2, 64] in two blocks, whose scales are bytes. */
const NESTED: Folder = {
  config: { quant_method: "bitsandbytes", load_in_4bit: true, bnb_4bit_quant_type: "fp4" },
  parts: {
    weight: octets(
      [64, 1],
      list(64, (at) => (code(0, 2 * at) << 4) | code(0, 2 * at + 1)),
    ),
    "weight.absmax": octets([2], [3, 200]),
    "weight.quant_map": floats(
      [16],
      list(16, (at) => at / 16),
    ),
    "weight.nested_absmax": floats([1], [4]),
    "weight.nested_quant_map": floats(
      [256],
      list(256, (at) => at / 256),
    ),
    [STATE_NAME]: text(JSON.stringify(STATE)),
  },
};

/** [2, 3], 8 bits. */
const INT8: Folder = {
  config: { quant_method: "bitsandbytes", load_in_8bit: true, load_in_4bit: false },
  parts: {
    weight: { dtype: "I8", shape: [2, 3], bytes: bytesOf(Int8Array.of(-127, 0, 127, 1, -3, 100)) },
    SCB: floats([2], [0.75, 3.25]),
    weight_format: octets([], [0]),
  },
};

/** [3, 32], 8 bits, groups of 16. */
const HQQ: Folder = {
  config: { quant_method: "hqq", quant_config: { weight_quant_params: { nbits: 8 } }, skip_modules: ["lm_head"] },
  parts: {
    W_q: octets(
      [6, 16],
      list(96, (at) => (7 * at) % 256),
    ),
    scale: halves(
      [6, 1],
      list(6, (at) => 2 ** -at),
    ),
    zero: halves(
      [6, 1],
      list(6, (at) => at + 0.5),
    ),
    nbits: words([], [8]),
    group_size: words([], [16]),
    axis: words([], [1]),
    packing: text("8bit_u8"),
    shape: { dtype: "I64", shape: [2], bytes: bytesOf(BigInt64Array.of(3n, 32n)) },
    encoded_state_dict: octets([], [1]),
  },
};

test("GPTQ of version 2 is read by the group of each column", async () => {
  const expected = list(1024, (at) => {
    const [row, column] = [Math.floor(at / 32), at % 32];
    return column < 16 ? (code(row, column) - 7) * 0.25 : (code(row, column) - (row % 8)) * 0.5;
  });
  assert.deepEqual(await weightOf(GPTQ), Float32Array.from(expected));
});

test("AWQ is read in its own order of channels, also with a scale for each alone", async () => {
  const expected = list(
    128,
    (at) => (code(Math.floor(at / 16), at % 16) - Math.floor(at / 16)) * 2 ** -Math.floor(at / 16),
  );
  assert.deepEqual(await weightOf(AWQ), Float32Array.from(expected));
});

test("bitsandbytes is read by the module's own table, and scales that are quantized themselves", async () => {
  const expected = list(128, (at) => (code(0, at) / 16) * (((at < 64 ? 3 : 200) / 256) * 4 + 0.5));
  assert.deepEqual(await weightOf(NESTED), Float32Array.from(expected));
});

test("bytes of bitsandbytes are read whatever dtype they are stored as", async () => {
  const bytes = NESTED.parts.weight?.bytes ?? new Uint8Array();
  for (const [dtype, width] of [
    ["BF16", 2],
    ["F32", 4],
  ] as const) {
    const weight: Part = { dtype, shape: [bytes.length / width, 1], bytes };
    assert.deepEqual(await weightOf({ ...NESTED, parts: { ...NESTED.parts, weight } }), await weightOf(NESTED));
  }
});

test("8 bits of bitsandbytes are read with the scale of each row", async () => {
  // As torch computes (codes * SCB) * 7.874015718698502e-3 of these.
  const expected = [-0.75, 0, 0.75, 0.025590551, -0.076771654, 2.559055];
  assert.deepEqual(await weightOf(INT8), Float32Array.from(expected));
});

test("hqq is read with scales and zero points of 16 bits", async () => {
  const expected = list(96, (at) => (((7 * at) % 256) - Math.floor(at / 16) - 0.5) * 2 ** -Math.floor(at / 16));
  assert.deepEqual(await weightOf(HQQ), Float32Array.from(expected));
});

test("hqq is read with groups down the columns, and codes seen as floats", async () => {
  for (const [bits, packing, dtype] of [
    [2, "2bit_u8", "U8"],
    [3, "3bit_32", "I32"],
    [4, "4bit_u8", "BF16"],
  ] as const) {
    // [4, 24] in 6 groups of 16: value k is row k / 6 and column k mod 6 of [16, 6].
    const [rows, each] = bits === 3 ? [2, 10] : [16 / (8 / bits), 8 / bits];
    const own = (row: number, group: number) => (row < 16 ? (5 * row + 3 * group) % 2 ** bits : 0);
    const packed = list(6 * rows, (at) =>
      list(each, (i) => own(Math.floor(at / 6) + i * rows, at % 6)).reduce((word, value) => (word << bits) | value, 0),
    );
    const bytes = bits === 3 ? bytesOf(Int32Array.from(packed)) : Uint8Array.from(packed);
    const shape = [rows, dtype === "BF16" ? 3 : 6];
    const parts: Parts = {
      ...HQQ.parts,
      W_q: { dtype, shape, bytes },
      scale: floats(
        [1, 6],
        list(6, (at) => 2 ** -at),
      ),
      zero: floats(
        [1, 6],
        list(6, (at) => at + 0.25),
      ),
      nbits: words([], [bits]),
      axis: words([], [0]),
      packing: text(packing),
      shape: { dtype: "I64", shape: [2], bytes: bytesOf(BigInt64Array.of(4n, 24n)) },
    };
    const expected = list(96, (at) => (own(Math.floor(at / 6), at % 6) - (at % 6) - 0.25) * 2 ** -(at % 6));
    assert.deepEqual(await weightOf({ config: HQQ.config, parts }), Float32Array.from(expected), packing);
  }
});

test("a folder of a form that cannot be followed is refused before anything is read of it", async () => {
  const cases: readonly (readonly [Folder, Record<string, unknown>, string])[] = [
    [GPTQ, { checkpoint_format: "marlin" }, "checkpoint_format"],
    [GPTQ, { dynamic: { "+:.*down.*": { bits: 8 } } }, "dynamic"],
    [GPTQ, { bits: 5 }, "bits"],
    [AWQ, { version: "gemv" }, "version"],
    [AWQ, { w_bit: 8 }, "bits"],
    [AWQ, { q_group_size: undefined }, "group_size"],
    [NESTED, { load_in_4bit: false }, "load_in_4bit"],
    [INT8, { load_in_8bit: false }, "load_in_4bit"],
  ];
  for (const [{ config, parts }, change, field] of cases) {
    await assert.rejects(
      weightOf({ config: { ...config, ...change }, parts }),
      refusal({ code: "QuantizedFolderUnsupported", field: `quantization_config.${field}` }),
    );
  }
});

test("codes of 3 bits that older compressed-tensors packed otherwise are refused by name", async () => {
  const weights = { num_bits: 3, type: "int", symmetric: true, strategy: "channel" };
  const config = {
    quant_method: "compressed-tensors",
    format: "pack-quantized",
    config_groups: { group_0: { targets: ["Linear"], weights } },
  };
  const parts: Parts = {
    weight_packed: words(
      [2, 13],
      list(26, () => 0),
    ),
    weight_scale: floats([2, 1], [1, 1]),
    weight_shape: { dtype: "I64", shape: [2], bytes: bytesOf(BigInt64Array.of(2n, 128n)) },
  };
  await assert.rejects(
    weightOf({ config, parts }),
    refusal({ code: "QuantizedFolderUnsupported", found: "words of whole codes of 3 bits" }),
  );
});

test("parts that do not belong together are refused", async () => {
  const cases: readonly (readonly [Folder, Parts, string | undefined])[] = [
    [
      GPTQ,
      {
        scales: halves(
          [1, 32],
          list(32, () => 1),
        ),
      },
      "scales",
    ],
    [
      GPTQ,
      {
        g_idx: words(
          [32],
          list(32, (at) => at),
        ),
      },
      undefined,
    ],
    [
      GPTQ,
      {
        qweight: words(
          [128],
          list(128, () => 0),
        ),
      },
      "qweight",
    ],
    [AWQ, { qzeros: words([2, 1], [0, 0]) }, "qzeros"],
    [NESTED, { [STATE_NAME]: text("{") }, STATE_NAME],
    [NESTED, { [STATE_NAME]: text(JSON.stringify({ ...STATE, shape: [2, 2 ** 52] })) }, "weight"],
    [NESTED, { [STATE_NAME]: text(JSON.stringify({ ...STATE, blocksize: 0 })) }, STATE_NAME],
    [NESTED, { [STATE_NAME]: text(" ".repeat(70_000)) }, STATE_NAME],
    [NESTED, { weight: floats([8, 1], list(8, Number)) }, "weight"],
    [INT8, { weight_format: octets([], [2]) }, "weight_format"],
    [INT8, { SCB: floats([3], [1, 1, 1]) }, "SCB"],
    [HQQ, { axis: words([], [2]) }, "axis"],
    [HQQ, { group_size: words([], [20]) }, "group_size"],
    [HQQ, { nbits: words([], [5]) }, "nbits"],
    [HQQ, { packing: text("4bit_u8") }, "packing"],
    [HQQ, { group_size: words([2], [16, 16]) }, "group_size"],
    [HQQ, { shape: words([2], [3, 32]) }, "shape"],
    [
      HQQ,
      {
        W_q: octets(
          [6, 8],
          list(48, () => 0),
        ),
      },
      "W_q",
    ],
  ];
  for (const [{ config, parts }, change, part] of cases) {
    const refused = weightOf({ config, parts: { ...parts, ...change } });
    const tensor = part && `${MODULE}.${part}`;
    await assert.rejects(refused, refusal({ code: "QuantizedFolderInvalid", tensor }));
  }
});
