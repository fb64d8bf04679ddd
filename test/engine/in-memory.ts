// One tensor through the engine with everything in memory: no files, no threads, any kernels and windows.
import { totalModel } from "../../core/artifact/totals.ts";
import type { MergeMethod, MergeRules, MergeTensor, ModelState } from "../../core/methods/method.ts";
import { type FloatDtype, scalarCast } from "../../core/ops/cast.ts";
import type { Kernels } from "../../core/ops/kernels.ts";
import type { UnitTensor } from "../../core/plan/schema.ts";
import { elementBytes, elementCount } from "../../core/tensor.ts";
import { measureTensor, mergeTensor, type TensorResult } from "../../engine/merge-tensor.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";

export type ModelPart = {
  readonly model: string;
  readonly values: Float32Array;
  readonly dtype?: FloatDtype;
  readonly parameters?: Record<string, number>;
};

export type TensorCase = {
  readonly method: MergeMethod;
  readonly shape: readonly number[];
  /** The first is the base, unless there is none. */
  readonly hasBase?: boolean;
  readonly models: readonly ModelPart[];
  readonly parameters?: Record<string, number | boolean | string>;
  readonly dtype?: FloatDtype;
  readonly name?: string;
  readonly seed?: number;
  readonly rules?: Partial<MergeRules>;
  readonly working?: "F16" | "BF16";
};

export type TensorRun = {
  readonly values: Float32Array;
  readonly result: TensorResult;
  /** How often the inputs were read from end to end, in shares of once. */
  readonly passes: number;
};

/** The tensor as a plan has it. */
export function unitTensorOf(entry: TensorCase): UnitTensor {
  const { method, shape, models, dtype = "F32", name = "tensor", seed = 0, working, hasBase = true } = entry;
  return {
    name,
    dtype,
    shape: [...shape],
    offset: 0,
    bytes: elementBytes(dtype, elementCount(shape)),
    method: method.id,
    parameters: parse(method.parameters, entry.parameters ?? {}),
    seed,
    ...(working === undefined ? {} : { working }),
    inputs: models.map((model, source) => ({
      source,
      tensor: name,
      dtype: model.dtype ?? "F32",
      shape: [...shape],
      ranges: [],
      isBase: hasBase && source === 0,
      ...(working === undefined ? {} : { working }),
      parameters: hasBase && source === 0 ? {} : parse(method.modelParameters, model.parameters ?? {}),
    })),
  };
}

function parse(schema: MergeMethod["parameters"], values: unknown): UnitTensor["parameters"] {
  const parsed = Object.entries(schema.parse(values)).filter(([, value]) => value !== undefined);
  return Object.fromEntries(parsed) as UnitTensor["parameters"];
}

/** Merges one tensor with the WebAssembly kernels, or those given. */
export async function runTensor(
  entry: TensorCase,
  options: { kernels?: Kernels; windowElements?: number; keptBytes?: number; statistics?: boolean } = {},
): Promise<TensorRun> {
  const { method, models, dtype = "F32", rules } = entry;
  const tensor = unitTensorOf(entry);
  const { name, shape, parameters, seed } = tensor;
  const count = elementCount(shape);
  const stored = models.map((model) => store(model.values, model.dtype ?? "F32"));
  const view: MergeTensor = {
    name,
    shape,
    parameters,
    seed,
    working: entry.working,
    rules: { nonFinite: "error", strict: false, ...rules },
    inputs: tensor.inputs.map(({ isBase, working, parameters: own }, index) => ({
      model: models[index]?.model ?? "",
      isBase,
      working,
      parameters: own,
    })),
  };
  const written: Uint8Array[] = [];
  let read = 0;
  const context = {
    kernels: options.kernels ?? createWasmKernels(2 ** 27),
    method,
    tensor,
    view,
    readers: stored.map(
      (bytes, index): Reader =>
        async (first, length, target) => {
          const unit = elementBytes(models[index]?.dtype ?? "F32", 1);
          target.bytes.set(bytes.subarray(first * unit, (first + length) * unit));
        },
    ),
    digested: models.map(() => undefined),
    windowElements: options.windowElements ?? 2 ** 16,
    mayBlock: false,
    progress: (bytes: number) => {
      read += bytes;
    },
  };
  const state = await runRounds(context, view);
  read = 0;
  const result = await mergeTensor({
    ...context,
    view: { ...view, state },
    statistics: options.statistics ?? false,
    keptBytes: options.keptBytes ?? 0,
    sinks: [],
    write: async (bytes) => void written.push(bytes.slice()),
  });
  const all = stored.reduce((sum, bytes) => sum + bytes.byteLength, 0);
  return { values: load(Buffer.concat(written), dtype, count), result, passes: all === 0 ? 0 : read / all };
}

type Context = Parameters<typeof measureTensor>[0];
type Reader = Context["readers"][number];

/** What the rounds of the method decide of a model that is this tensor. */
async function runRounds(context: Context, view: MergeTensor): Promise<ModelState> {
  const model = { ...view, elements: elementCount(view.shape), tensors: 1 };
  let state: ModelState = {};
  for (const round of context.method.wholeModel?.rounds(view) ?? []) {
    const values = await measureTensor({ ...context, view: { ...view, state } }, round);
    const totals = totalModel(round.totals(view), { tensors: [view.name], values });
    state = { ...state, ...round.decide(totals, model, state) };
  }
  return state;
}

function store(values: Float32Array, dtype: FloatDtype): Uint8Array {
  const bytes = new Uint8Array(elementBytes(dtype, values.length));
  scalarCast.narrow(dtype, { address: 0, values }, { address: 0, bytes }, 0, values.length);
  return bytes;
}

function load(bytes: Uint8Array, dtype: FloatDtype, count: number): Float32Array {
  const values = new Float32Array(count);
  scalarCast.widen(dtype, { address: 0, bytes }, 0, { address: 0, values }, count);
  return values;
}
