// What a step is: zod input, zod output, and a function of the input and of its dependencies. Edges (cli, functions,
// workers, local) construct the dependencies; a step never knows which edge it runs behind.
import type * as z from "zod";
import type { ExecuteConvert } from "../engine/convert-request.ts";
import type { ExecuteParts } from "../engine/parts-request.ts";
import type { ExecuteQuantize } from "../engine/quantize-request.ts";
import type { BytesDone, ExecuteMeasure, ExecuteMerge } from "../engine/request.ts";
import type { OpenStore } from "../stores/store.ts";

/** A structured progress event; edges print or store it. */
export type StepEvent = { readonly event: string; readonly [field: string]: unknown };

export type StepDeps = {
  readonly openStore: OpenStore;
  /** Milliseconds since the epoch; only for times in records, never in anything that reaches a digest. */
  readonly now: () => number;
  readonly log: (event: StepEvent) => void;
  readonly signal: AbortSignal;
  /** Told the bytes of the files of tensors that will be read, once they are known, for a progress line. */
  readonly begun?: ((sourceBytes: number) => void) | undefined;
  /** Told now and then, for a progress line. */
  readonly progress?: ((done: BytesDone) => void) | undefined;
};

/** How much of the machine work on weights may use. */
type Machine = { readonly threads: number; readonly memoryBytes: number };

/** What quantizing has besides. */
export type QuantizeDeps = StepDeps & Machine & { readonly executeQuantize: ExecuteQuantize };

/** What quantizing into a folder has besides. */
export type PartsDeps = StepDeps & Machine & { readonly executeParts: ExecuteParts };

/** What converting has besides. */
export type ConvertDeps = StepDeps & Machine & { readonly executeConvert: ExecuteConvert };

/** What the data plane has besides: the merge executor and how much of the machine it may use. */
export type UnitDeps = ConvertDeps & {
  readonly executeMerge: ExecuteMerge;
  readonly executeMeasure: ExecuteMeasure;
  /** CPU milliseconds that this process has used, all threads together; only for records. */
  readonly cpuMs: () => number;
  /** Digest of the container image that this process runs in; only for records. */
  readonly image?: string | undefined;
};

export type Step<Input extends z.ZodType, Output extends z.ZodType, Deps extends StepDeps = StepDeps> = {
  readonly name: string;
  readonly input: Input;
  readonly output: Output;
  run(input: z.output<Input>, deps: Deps): Promise<z.input<Output>>;
};

/** Fixes the types of a step; the object itself is returned. */
export function defineStep<Input extends z.ZodType, Output extends z.ZodType, Deps extends StepDeps = StepDeps>(
  step: Step<Input, Output, Deps>,
): Step<Input, Output, Deps> {
  return Object.freeze(step);
}

/** Runs a step on outside data: parses the input, runs, and checks the output against its schema. */
export async function runStep<Input extends z.ZodType, Output extends z.ZodType, Deps extends StepDeps>(
  step: Step<Input, Output, Deps>,
  input: unknown,
  deps: Deps,
): Promise<z.output<Output>> {
  return step.output.parse(await step.run(step.input.parse(input), deps));
}
