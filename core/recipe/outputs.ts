// What a pipeline's `outputs:` ask for: the merged checkpoint itself, and files of quantized formats that are made in
// the same pass over the weights.
import { MergeyardError } from "../error.ts";
import { MIXES, type Mix } from "../schemes/mixes.ts";
import { nearestName } from "./nearest.ts";
import type { RecipeOrigin } from "./origin.ts";
import type { Pipeline } from "./schema.ts";

/** A quantized artifact beside the merged checkpoint. */
export type GgufOutput = {
  readonly mix: Mix;
  /** False: the file says that it has no tokenizer. */
  readonly tokenizer: boolean;
};

export type Outputs = {
  /** False: the merged checkpoint is only a step on the way, and no part of the result. */
  readonly checkpoint: boolean;
  readonly gguf: readonly GgufOutput[];
};

/** One output, as recipes and the command line spell it. */
export type OutputRequest = Pipeline["outputs"][number];

/** Formats by id: whether a scheme is needed. */
const FORMATS: Readonly<Record<string, { readonly takesScheme: boolean }>> = Object.freeze({
  safetensors: { takesScheme: false },
  gguf: { takesScheme: true },
});

/** Throws RecipeNotSupported: a format or scheme that cannot be written in the same pass; RecipeFieldInvalid: twice. */
export function readOutputs(requests: readonly OutputRequest[], origin: Pick<RecipeOrigin, "file">): Outputs {
  const gguf: GgufOutput[] = [];
  const seen = new Set<string>();
  for (const [index, { format, scheme, tokenizer }] of requests.entries()) {
    const refuse = (
      code: "RecipeNotSupported" | "RecipeFieldInvalid",
      found: string,
      expected: string,
      hint?: string,
    ) => new MergeyardError(code, { where: { file: origin.file, field: `outputs[${index}]` }, found, expected, hint });
    const spelling = scheme == null ? format : `${format} with scheme ${scheme}`;
    const known = FORMATS[format];
    if (known === undefined) {
      const hint = "run `mergeyard quantize` on what the pipeline publishes";
      throw refuse("RecipeNotSupported", spelling, Object.keys(FORMATS).join(" or "), hint);
    }
    if (seen.has(spelling)) throw refuse("RecipeFieldInvalid", `${spelling} again`, "every output once");
    seen.add(spelling);
    if (known.takesScheme !== (scheme != null)) {
      throw refuse("RecipeNotSupported", spelling, known.takesScheme ? `${format} with a scheme` : format);
    }
    if (scheme == null) continue;
    const mix = MIXES.get(scheme);
    if (mix === undefined) {
      const nearest = nearestName(scheme, [...MIXES.keys()]);
      const hint = nearest === undefined ? undefined : `did you mean \`${nearest}\`?`;
      throw refuse("RecipeNotSupported", spelling, [...MIXES.keys()].join(", "), hint);
    }
    gguf.push({ mix, tokenizer: tokenizer !== false });
  }
  return { checkpoint: seen.size > gguf.length, gguf };
}
