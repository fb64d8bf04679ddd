// What a pipeline's `outputs:` ask for: the merged checkpoint itself, and files of quantized formats that are made in
// the same pass over the weights.
import { MergeyardError } from "../error.ts";
import { MIXES, type Mix } from "../schemes/mixes.ts";
import { FORMAT_SCHEMES } from "../schemes/quantized-formats.ts";
import { FOLDER_SCHEMES, type FolderScheme, SCHEME_ALIASES } from "../schemes/registry.ts";
import { didYouMean, nearestName } from "./nearest.ts";
import type { RecipeOrigin } from "./origin.ts";
import type { Pipeline } from "./schema.ts";

/** A quantized artifact beside the merged checkpoint. */
export type GgufOutput = {
  readonly mix: Mix;
  /** False: the file says that it has no tokenizer. */
  readonly tokenizer: boolean;
  /** Name of the file with the importance matrix: a path or a URI. */
  readonly imatrix: string | undefined;
};

/** A folder of parts: compressed-tensors, or another tool's. */
export type FolderOutput = {
  readonly scheme: FolderScheme;
  /** Name of the file with the Hessians of the modules' inputs: a path or a URI. */
  readonly hessian: string | undefined;
  /** Where its files lie in the version's folder: "", or a folder's name and "/". */
  readonly folder: string;
};

export type Outputs = {
  /** False: the merged checkpoint is only a step on the way, and no part of the result. */
  readonly checkpoint: boolean;
  readonly gguf: readonly GgufOutput[];
  /**
   * The version's own folder is the merged checkpoint's, else the first of these; each other one has a folder in it,
   * named by its scheme, since each has a config.json.
   */
  readonly folders: readonly FolderOutput[];
};

/** One output, as recipes and the command line spell it. */
export type OutputRequest = Pipeline["outputs"][number];

type Refuse = (code: "RecipeNotSupported" | "RecipeFieldInvalid", expected: string, hint?: string) => MergeyardError;

/** Formats by id, with the schemes that each takes; empty: none. */
const FORMATS: ReadonlyMap<string, readonly string[]> = new Map([["safetensors", []], ...FORMAT_SCHEMES]);

/** Throws RecipeNotSupported: a format or scheme that cannot be written in the same pass; RecipeFieldInvalid: twice. */
export function readOutputs(requests: readonly OutputRequest[], origin: Pick<RecipeOrigin, "file" | "line">): Outputs {
  const gguf: GgufOutput[] = [];
  const schemes: Pick<FolderOutput, "scheme" | "hessian">[] = [];
  const seen = new Set<string>();
  for (const [index, { format, scheme: named, tokenizer, imatrix, hessian }] of requests.entries()) {
    const scheme = named == null ? undefined : (SCHEME_ALIASES.get(named.toLowerCase()) ?? named);
    const spelling = scheme === undefined ? format : `${format} with scheme ${scheme}`;
    const where = { file: origin.file, field: `outputs[${index}]`, line: origin.line(["outputs", index]) };
    const refuse: Refuse = (code, expected, hint) =>
      new MergeyardError(code, { where, found: spelling, expected, hint });
    checkScheme(format, scheme, refuse);
    if (seen.has(spelling)) throw refuse("RecipeFieldInvalid", "every output once");
    seen.add(spelling);
    const mix = format === "gguf" ? MIXES.get(scheme ?? "") : undefined;
    const parts = format === "gguf" ? undefined : FOLDER_SCHEMES.get(scheme ?? "");
    if (mix !== undefined) gguf.push({ mix, tokenizer: tokenizer !== false, imatrix: imatrix ?? undefined });
    if (mix === undefined && imatrix != null) throw refuse("RecipeNotSupported", "an imatrix for gguf alone");
    if (hessian != null && (parts?.hessian ?? "ignored") === "ignored") {
      throw refuse("RecipeNotSupported", "a hessian for a scheme that takes one, such as those of gptq");
    }
    if (parts !== undefined) schemes.push({ scheme: parts, hessian: hessian ?? undefined });
  }
  const checkpoint = seen.size > gguf.length + schemes.length;
  const folders = schemes.map((own, index): FolderOutput => {
    return { ...own, folder: index === 0 && !checkpoint ? "" : `${own.scheme.id}/` };
  });
  return { checkpoint, gguf, folders };
}

const AFTERWARDS = "run `mergeyard quantize` on what the pipeline publishes";

function checkScheme(format: string, scheme: string | undefined, refuse: Refuse): void {
  const schemes = FORMATS.get(format);
  if (schemes === undefined) {
    const formats = [...FORMATS.keys()];
    throw refuse("RecipeNotSupported", formats.join(" or "), didYouMean(nearestName(format, formats)) ?? AFTERWARDS);
  }
  if (schemes.length > 0 !== (scheme !== undefined)) {
    throw refuse("RecipeNotSupported", schemes.length > 0 ? `${format} with a scheme` : format);
  }
  if (scheme === undefined || schemes.includes(scheme)) return;
  throw refuse("RecipeNotSupported", schemes.join(", "), didYouMean(nearestName(scheme, schemes)));
}
