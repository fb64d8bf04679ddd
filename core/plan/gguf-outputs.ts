// GGUF files made in the pass that merges: one file for each merge unit, in llama.cpp's own split form when there are
// several, so that a worker writes whole files and talks to no other. Everything but the blocks is known from headers.
import assert from "node:assert/strict";
import { MergeyardError } from "../error.ts";
import { type GgufModelTensor, planGgufModel } from "../formats/gguf-model.ts";
import { splitMetadata, splitName } from "../formats/gguf-split.ts";
import { NO_TOKENIZER } from "../formats/gguf-tokenizer.ts";
import { describeTokenizerFiles, GGUF_TOKENIZER_FILES } from "../formats/gguf-tokenizer-files.ts";
import { GGUF_TYPE_OF } from "../formats/gguf-types.ts";
import { encodeGgufHeader } from "../formats/gguf-write.ts";
import { checkImportance } from "../formats/imatrix.ts";
import type { PlannedShard } from "../formats/shard-plan.ts";
import type { GgufOutput } from "../recipe/outputs.ts";
import type { MergeModel, PlannedImatrix } from "./merge-task.ts";
import type { Notes } from "./notes.ts";
import { outputDocument, outputObject } from "./output-documents.ts";
import type { DerivedFile, SideFile } from "./schema.ts";

export type GgufOutputParts = {
  /** Name of the artifact, from which files are named. */
  readonly name: string;
  readonly outputs: readonly GgufOutput[];
  readonly shards: readonly PlannedShard[];
  readonly sideFiles: readonly SideFile[];
  readonly models: readonly MergeModel[];
  /** By the names that outputs have for them. */
  readonly imatrices: ReadonlyMap<string, PlannedImatrix>;
  readonly notes: Notes;
};

/**
 * The derived files of every shard, in the order of the outputs.
 * Throws QuantizeModelUnsupported, QuantizeTokenizerUnsupported, GgufTensorInvalid, ImatrixInvalid.
 */
export function planGgufOutputs(parts: GgufOutputParts): readonly (readonly DerivedFile[])[] {
  const made = parts.outputs.map((output) => planOutput(output, parts));
  return parts.shards.map((_, shard) => made.map((files) => pick(files, shard)));
}

function planOutput(
  { mix, tokenizer: wanted, imatrix: file }: GgufOutput,
  parts: GgufOutputParts,
): readonly DerivedFile[] {
  const { shards } = parts;
  const config = outputObject(parts, "config.json");
  const tensors = shards.flatMap((shard) =>
    shard.tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape, ranges: [] })),
  );
  const tokenizer = wanted ? tokenizerOf(parts, config) : undefined;
  if (tokenizer === undefined) parts.notes.add("the GGUF files have no tokenizer");
  const imatrix = file === undefined ? undefined : parts.imatrices.get(file);
  assert.equal(imatrix === undefined, file === undefined, "whoever plans has opened the importance matrices");
  const model = planGgufModel({ tensors, config }, mix, tokenizer ?? NO_TOKENIZER, imatrix !== undefined);
  checkSingle(model.tensors);
  if (imatrix !== undefined) checkImportance(model.tensors, imatrix.importance);
  const planned = new Map(model.tensors.map((tensor) => [tensor.source.name, tensor]));
  return shards.map((shard, index) => {
    const own = shard.tensors.flatMap(({ name }, tensor) => {
      const found = planned.get(name);
      return found === undefined ? [] : [{ ...found, tensor }];
    });
    const {
      header,
      tensors: placed,
      fileBytes,
    } = encodeGgufHeader(
      splitMetadata(model.metadata, index, shards.length, model.constants.length + model.tensors.length),
      own.map(({ name, shape, scheme }) => {
        const type = GGUF_TYPE_OF.get(scheme);
        assert.ok(type !== undefined, "every scheme of blocks has a GGUF type");
        return { name, shape, type };
      }),
      index === 0 ? model.constants : [],
    );
    return {
      format: "gguf",
      output: `gguf ${mix.id}`,
      file: splitName(`${parts.name}-${mix.id}`, index, shards.length),
      fileBytes,
      header: Buffer.from(header).toString("base64"),
      ...(imatrix === undefined ? {} : { imatrix: { store: imatrix.store, key: imatrix.key, digest: imatrix.digest } }),
      tensors: own.map(({ name, tensor, shape, scheme, permutedHeads }, at) => ({
        name,
        tensor,
        shape: [...shape],
        scheme,
        ...(permutedHeads === undefined ? {} : { permutedHeads }),
        offset: placed[at]?.offset ?? 0,
        bytes: placed[at]?.bytes ?? 0,
      })),
    };
  });
}

/** A tensor that is made of several would need rows that other workers merge. */
function checkSingle(tensors: readonly GgufModelTensor[]): void {
  const stack = tensors.find(({ isStack }) => isStack);
  if (stack === undefined) return;
  const hint = "publish safetensors and run `mergeyard quantize` on what the pipeline publishes";
  throw new MergeyardError("QuantizeModelUnsupported", {
    where: { tensor: stack.source.name },
    found: "a stack of experts",
    expected: "one merged tensor for each of the file",
    hint,
  });
}

function tokenizerOf(parts: GgufOutputParts, config: Readonly<Record<string, unknown>> | undefined) {
  const files = GGUF_TOKENIZER_FILES.flatMap((name) => {
    const bytes = outputDocument(parts, name);
    return bytes === undefined ? [] : [[name, bytes] as const];
  });
  return describeTokenizerFiles(new Map(files), config);
}

function pick<Item>(items: readonly Item[], index: number): Item {
  const item = items[index];
  assert.ok(item !== undefined, "every output has a file for every shard");
  return item;
}
