// The bit plan as a file that a person reads and edits: a scheme for every matrix. What it was made
// from stands in comments; only the schemes count when it is read again.
import * as z from "zod";

/** What a plan for a folder calls leaving a matrix as it is. */
export const UNQUANTIZED = "unquantized";

export const bitPlanSchema = z.strictObject({
  bit_plan: z.literal(1),
  /** Tensor, as the output names it, to the scheme. */
  tensors: z.record(z.string(), z.string()),
});

/** What is said of one tensor beside its scheme. */
export type PlannedTensor = {
  readonly tensor: string;
  readonly scheme: string;
  readonly elements: number;
  readonly bytes: number;
  /** ||W - Q(W)||^2 / ||W||^2 on the sampled rows. */
  readonly relativeError: number;
  /** Loss that the next better scheme would save for each byte; null: there is none. */
  readonly marginalLoss: number | null;
};

/** The text of a plan, one line a tensor; `headline` is one line without a line break. */
export function renderBitPlan(headline: string, tensors: readonly PlannedTensor[]): string {
  const lines = tensors.map(({ tensor, scheme, elements, bytes, relativeError }) => {
    const bits = ((8 * bytes) / elements).toFixed(2);
    return `  ${JSON.stringify(tensor)}: ${scheme} # ${bits} bits, relative error ${relativeError.toExponential(1)}`;
  });
  const notes = [`# ${headline}`, "# Edit any scheme and quantize again with --bit-plan."];
  return `${[...notes, "bit_plan: 1", "tensors:", ...lines].join("\n")}\n`;
}
