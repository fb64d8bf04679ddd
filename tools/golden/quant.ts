// Golden cases of quantization: rows through a scheme must give the reference's bytes, and those bytes the reference's
// values, in plain TypeScript and in SIMD. Source of the form: a list of cases, each with a scheme and files beside it.
import { createHash } from "node:crypto";
import * as z from "zod";
import { createScalarKernels, type Kernels } from "../../core/ops/kernels.ts";
import { MIXES } from "../../core/schemes/mixes.ts";
import { BLOCK_SCHEMES, type BlockSchemeId, isBlockSchemeId } from "../../core/schemes/registry.ts";
import { rowBytes } from "../../core/schemes/scheme.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";
import { failed, type GoldenCase, type GoldenSet, PASSED, skipped, type Verdict } from "./case.ts";
import { readFileTensors } from "./compare.ts";
import { runGguf } from "./quant-gguf.ts";
import { MORE_SCHEMES } from "./quant-more.ts";
import { runCompressed } from "./quant-parts.ts";
import { type Tensor, valuesOf } from "./tensors.ts";

const expectedPart = z.object({ dtype: z.string(), shape: z.array(z.int()), sha256: z.string() });

const quantCase = z.object({
  id: z.string(),
  scheme: z.string(),
  input: z.string(),
  config: z.string().optional(),
  parameters: z.unknown().optional(),
  input_tensors: z.array(z.string()).default([]),
  imatrix_tensor: z.string().nullish(),
  expected: z.string().optional(),
  expected_parts: z.record(z.string(), expectedPart).optional(),
  loose: z.record(z.string(), z.string()).default({}),
});
const document = z.array(quantCase);
type QuantCase = z.output<typeof quantCase>;

/** How far a value of a loose input may lie from the input. */
const LOOSE_ERROR = 1e-30;

/** Sets that are a list of cases, each with a scheme. */
export const quantSet: GoldenSet = {
  id: "quant",
  open(folder, content) {
    const parsed = document.safeParse(content);
    if (!parsed.success) return undefined;
    return parsed.data.map((entry): GoldenCase => ({ id: entry.id, run: () => runCase(folder, entry) }));
  },
};

async function runCase(folder: string, entry: QuantCase): Promise<Verdict> {
  const [family, type = ""] = entry.scheme.split(":");
  const id = type.toLowerCase();
  if (family === "gguf" && entry.config !== undefined && entry.expected !== undefined && MIXES.has(id)) {
    return runGguf(folder, { input: entry.input, config: entry.config, expected: entry.expected, mix: id });
  }
  const inputs = await readFileTensors(folder, entry.input);
  const expected = entry.expected === undefined ? new Map() : await readFileTensors(folder, entry.expected);
  const stored = new Map(Object.entries(entry.expected_parts ?? {}));
  for (const [name, tensor] of expected) stored.set(name, { ...tensor, sha256: digest(tensor.bytes) });
  const parts = runCompressed(entry.scheme, entry.parameters, entry.input_tensors, inputs, stored);
  if (parts !== undefined) return parts;
  const compare = MORE_SCHEMES.get(entry.scheme);
  if (compare !== undefined) {
    const { parameters, input_tensors: inputNames } = entry;
    const why = compare({ parameters, inputNames, inputs, expected });
    return why === undefined ? PASSED : failed(why);
  }
  if (family !== "ggml" || !isBlockSchemeId(id)) return skipped(`the scheme ${entry.scheme}`);
  const matrix = entry.imatrix_tensor == null ? undefined : inputs.get(entry.imatrix_tensor);
  const importance = matrix === undefined ? undefined : valuesOf(matrix);
  for (const input of entry.input_tensors) {
    const name = input.replace(/^x\./, "");
    const [source, blocks] = [inputs.get(input), expected.get(`blocks.${name}`)];
    if (source === undefined || blocks === undefined) return failed(`the set has no tensor of ${input}`);
    const isLoose = Object.hasOwn(entry.loose, name);
    const why = compareRows({ scheme: id, source, importance, blocks, values: expected.get(`deq.${name}`), isLoose });
    if (why !== undefined) return failed(`${name}: ${why}`);
  }
  return PASSED;
}

/** A tensor, and what the reference makes of it; `isLoose`: what comes back need only be near the input. */
type RowsCase = {
  readonly scheme: BlockSchemeId;
  readonly source: Tensor;
  readonly importance: Float32Array | undefined;
  readonly blocks: Tensor;
  readonly values: Tensor | undefined;
  readonly isLoose: boolean;
};

/** Both kernel sets must give the reference's bytes. */
function compareRows(rows: RowsCase): string | undefined {
  const [, columns = 0] = rows.source.shape;
  for (const create of [createScalarKernels, createWasmKernels]) {
    const kernels = create(16 * columns + 512);
    const why = compareWith(kernels, rows);
    if (why !== undefined) return `${kernels.id}, ${why}`;
  }
  return undefined;
}

function compareWith(
  kernels: Kernels,
  { scheme, source, importance, blocks, values, isLoose }: RowsCase,
): string | undefined {
  const [rows = 0, columns = 0] = source.shape;
  const bytes = rowBytes(BLOCK_SCHEMES[scheme], columns);
  const input = valuesOf(source);
  const expected = values === undefined ? undefined : valuesOf(values);
  const [weights, back] = [kernels.allocateTile(columns), kernels.allocateTile(columns)];
  const matrix = importance === undefined ? undefined : kernels.allocateTile(columns);
  if (importance !== undefined) matrix?.values.set(importance);
  const stored = kernels.allocateBlock(bytes);
  for (let row = 0; row < rows; row++) {
    weights.values.set(input.subarray(row * columns, (row + 1) * columns));
    kernels.quantizeRow(scheme, weights, 0, columns, stored, 0, matrix);
    if (isLoose) {
      kernels.dequantizeRow(scheme, stored, 0, back, columns);
      const far = back.values.findIndex((value, i) => !(Math.abs(value - (weights.values[i] ?? 0)) <= LOOSE_ERROR));
      if (far >= 0) return `row ${row}, value ${far} is ${back.values[far]}, of ${weights.values[far]}`;
      continue;
    }
    const golden = blocks.bytes.subarray(row * bytes, (row + 1) * bytes);
    const other = stored.bytes.findIndex((byte, i) => byte !== golden[i]);
    if (other >= 0) return `row ${row}, byte ${other} of ${bytes} is ${stored.bytes[other]}, expected ${golden[other]}`;
    if (expected === undefined) continue;
    kernels.dequantizeRow(scheme, stored, 0, back, columns);
    const wrong = back.values.findIndex((value, i) => !isSame(value, expected[row * columns + i] ?? 0));
    if (wrong >= 0)
      return `row ${row}, value ${wrong} is ${back.values[wrong]}, not ${expected[row * columns + wrong]}`;
  }
  return undefined;
}

function digest(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function isSame(a: number, b: number): boolean {
  return Object.is(a, b) || (Number.isNaN(a) && Number.isNaN(b));
}
