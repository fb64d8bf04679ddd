// The folder of an adapter as PEFT saves it: every tensor in one file, and the config. Called by the steps that extract
// and that combine adapters.
import {
  ADAPTER_MODEL_FILE,
  encodeAdapterConfig,
  factorNames,
  type WrittenAdapter,
} from "../../core/adapter/write-peft.ts";
import type { FloatDtype } from "../../core/ops/cast.ts";
import type { Matrix } from "../../core/ops/linalg/matrix.ts";
import { ADAPTER_CONFIG_FILE } from "../../core/plan/documents.ts";
import type { Shape } from "../../core/tensor.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { padStacks } from "./stacked-experts.ts";
import { roundValues, type WholeTensor, writeTensors } from "./whole-tensors.ts";

type FactoredModule = {
  readonly module: string;
  readonly isEmbedding: boolean;
  readonly dtype: FloatDtype;
  /** Of the weight, or of another factor A: [any, inputs, ...kernel]. */
  readonly shape: Shape;
};

/** A module's factors, rounded to the dtype. A convolution's kernel stays on A; its B has a kernel of one element. */
export function factorTensors(
  { module, isEmbedding, dtype, shape }: FactoredModule,
  { a, b }: { readonly a: Matrix; readonly b: Matrix },
): readonly WholeTensor[] {
  const names = factorNames(module, isEmbedding);
  const kernel = shape.slice(2);
  const aShape = kernel.length === 0 ? [a.rows, a.columns] : [a.rows, ...shape.slice(1)];
  const bShape = [b.rows, b.columns, ...kernel.map(() => 1)];
  return [
    { name: names.a, dtype, shape: aShape, bytes: roundValues(a.values, dtype) },
    { name: names.b, dtype, shape: bShape, bytes: roundValues(b.values, dtype) },
  ];
}

/** Writes the folder, the config last; returns its bytes. Throws what the store throws. */
export async function writeAdapter(
  target: ObjectStore,
  tensors: readonly WholeTensor[],
  adapter: WrittenAdapter,
  signal: AbortSignal,
): Promise<number> {
  const padded = padStacks({ tensors, ranks: adapter.ranks });
  const bytes = await writeTensors(target, ADAPTER_MODEL_FILE, padded.tensors, signal);
  const config = encodeAdapterConfig({ ...adapter, ranks: padded.ranks });
  await writeBytes(target, ADAPTER_CONFIG_FILE, config, { signal });
  return bytes + config.length;
}
