// GGUF files made in the pass that merges: one file for each merge unit, in llama.cpp's own split form when there are
// several, so that a worker writes whole files and talks to no other. Everything but the blocks is known from headers.
import assert from "node:assert/strict";
import { MergeyardError } from "../error.ts";
import type { GgufTensor } from "../formats/gguf/gguf.ts";
import { checkImportance } from "../formats/gguf/imatrix.ts";
import { type GgufModelTensor, planGgufModel } from "../formats/gguf/model.ts";
import { stackOf } from "../formats/gguf/names.ts";
import { splitMetadata } from "../formats/gguf/split.ts";
import { NO_TOKENIZER } from "../formats/gguf/tokenizer.ts";
import { describeTokenizerFiles, GGUF_TOKENIZER_FILES } from "../formats/gguf/tokenizer-files.ts";
import { ggufTypeOf } from "../formats/gguf/type-codes.ts";
import { encodeGgufHeader } from "../formats/gguf/write.ts";
import type { PlannedShard } from "../formats/safetensors/shard-plan.ts";
import { shardName } from "../formats/shards.ts";
import type { GgufOutput } from "../recipe/outputs.ts";
import type { MergeModel, PlannedImatrix } from "./merge-task.ts";
import type { Notes } from "./notes.ts";
import { outputDocument, outputObject } from "./output-documents.ts";
import type { DerivedFile, DerivedTensor, SideFile } from "./schema.ts";

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
  if (model.leftOut > 0) parts.notes.add(`the GGUF files hold the text model, without ${model.leftOut} other tensors`);
  if (imatrix !== undefined) checkImportance(model.tensors, imatrix.importance);
  const planned = new Map(model.tensors.map((tensor) => [tensor.source.name, tensor]));
  return shards.map((shard, index) => {
    const own = madeOf(shard, planned);
    checkStacks(own);
    const inFile = own.filter(({ expert }) => expert === undefined || expert === 0);
    const {
      header,
      tensors: placed,
      fileBytes,
    } = encodeGgufHeader(
      splitMetadata(model.metadata, index, shards.length, model.constants.length + model.tensors.length),
      inFile.map(({ name, shape, scheme }) => ({ name, shape, type: ggufTypeOf(scheme) })),
      index === 0 ? model.constants : [],
    );
    return {
      format: "gguf",
      output: `gguf ${mix.id}`,
      file: shardName(`${parts.name}-${mix.id}.gguf`, index, shards.length),
      fileBytes,
      header: Buffer.from(header).toString("base64"),
      ...(imatrix === undefined ? {} : { imatrix: { store: imatrix.store, key: imatrix.key, digest: imatrix.digest } }),
      tensors: placeTensors(own, placed),
    };
  });
}

/** Where tensors of the merge go: a stack is its experts, one after the other. */
function placeTensors(own: readonly Made[], placed: readonly GgufTensor[]): DerivedTensor[] {
  const places = new Map(placed.map((each) => [each.name, each]));
  return own.map(({ name, tensor, shape, scheme, permutedHeads, shift, expert }) => {
    const whole = places.get(name);
    assert.ok(whole !== undefined, "every tensor of the file has a place");
    const moved = { ...(permutedHeads === undefined ? {} : { permutedHeads }), ...(shift === 0 ? {} : { shift }) };
    const made = { name, tensor, scheme, ...moved };
    if (expert === undefined) return { ...made, shape: [...shape], offset: whole.offset, bytes: whole.bytes };
    const [count = 1, ...inner] = shape;
    const bytes = whole.bytes / count;
    return { ...made, expert, shape: inner, offset: whole.offset + expert * bytes, bytes };
  });
}

/** A tensor of the file and what of it a tensor of the merge makes: all, or one of its experts. */
type Made = GgufModelTensor & { readonly tensor: number; readonly expert: number | undefined };

/** The tensors of a shard that the file has, in the shard's order. */
function madeOf(shard: PlannedShard, planned: ReadonlyMap<string, GgufModelTensor>): readonly Made[] {
  return shard.tensors.flatMap(({ name }, tensor) => {
    const place = stackOf(name);
    const found = planned.get(place?.stack ?? name) ?? planned.get(name);
    if (found === undefined) return [];
    const expert = found.isStack ? place?.expert : undefined;
    return [{ ...found, tensor, expert }];
  });
}

/** Experts of a stack follow each other from the first to the last: their bytes are the stack's. */
function checkStacks(own: readonly Made[]): void {
  for (const [at, { name, expert, source }] of own.entries()) {
    const before = own[at - 1];
    if (expert === undefined || expert === 0 || (before?.name === name && before.expert === expert - 1)) continue;
    throw new MergeyardError("QuantizeShapeUnsupported", {
      where: { tensor: source.name },
      found: "experts apart from each other",
      expected: "experts of whole words, which lie together",
      hint: "publish safetensors and run `mergeyard quantize` on what the pipeline publishes",
    });
  }
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
