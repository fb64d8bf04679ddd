// Folders of parts made in the pass that merges: one safetensors file for each merge unit, an index and a config.json
// of their own. Everything but the parts' bytes is known from headers.
import assert from "node:assert/strict";
import type { TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { compareSpecs, encodeSafetensorsHeader, type TensorSpec } from "../formats/safetensors/safetensors.ts";
import { encodeShardIndex } from "../formats/safetensors/shard-index.ts";
import { HF_METADATA, type PlannedShard } from "../formats/safetensors/shard-plan.ts";
import { type FileRole, fileRole } from "../formats/side-files.ts";
import type { FolderOutput } from "../recipe/outputs.ts";
import type { FolderScheme } from "../schemes/registry.ts";
import { DTYPE_BITS } from "../tensor.ts";
import { type CompressedMatrix, type CompressedUnit, planCompressedUnits, specsOf } from "./compressed-model.ts";
import { findHessian } from "./hessians.ts";
import type { HessianFile } from "./merge-task.ts";
import { type OutputDocuments, outputObject } from "./output-documents.ts";
import type { DerivedFile, DerivedModule, SideFile } from "./schema.ts";

export type FolderOutputParts = OutputDocuments & {
  readonly shards: readonly PlannedShard[];
  /** By the names that outputs have for them. */
  readonly hessians: ReadonlyMap<string, HessianFile>;
};

type PartsFile = Extract<DerivedFile, { format: "safetensors" }>;

/** The files of a folder: those of the units, one each, and the small ones that are its own. */
export type PartsFolder = { readonly derived: readonly PartsFile[]; readonly sideFiles: readonly SideFile[] };

const CONFIG_FILE = "config.json";
const INDEX_FILE = "model.safetensors.index.json";

/** What each folder has of its own, and what only the version has. */
const NOT_COPIED: readonly FileRole[] = ["config", "index", "card"];

/**
 * The folder of a merge in these shards, whose files are named as the shards are. A folder of its own has everything
 * that a server loads, tokenizer included.
 * Throws QuantizeModelUnsupported, QuantizeShapeUnsupported, PlanDocumentInvalid.
 */
export function planFolderOutput(
  { scheme, folder, hessian: named }: FolderOutput,
  { shards, hessians, ...documents }: FolderOutputParts,
): PartsFolder {
  const tensors = shards.flatMap((shard) => shard.tensors.map((tensor) => ({ ...tensor, ranges: [] })));
  const model = planCompressedUnits({ tensors, config: outputObject(documents, CONFIG_FILE) }, () => scheme, []);
  const hessian = named === undefined ? undefined : hessians.get(named);
  assert.equal(hessian === undefined, named === undefined, "whoever plans has opened the files of Hessians");
  const units = new Map(model.units.map((unit) => [unit.entry.name, unit]));
  const derived = shards.map((shard) => {
    const own = shard.tensors.flatMap(({ name }) => units.get(name) ?? []);
    return planFile(shard.file, own, scheme, hessian);
  });
  const sideFiles: SideFile[] = [{ from: "text", name: CONFIG_FILE, text: model.config }];
  if (shards.length > 1) sideFiles.push({ from: "text", name: INDEX_FILE, text: indexOf(derived) });
  if (folder !== "") sideFiles.push(...documents.sideFiles.filter(({ name }) => !NOT_COPIED.includes(fileRole(name))));
  return {
    derived: derived.map((own) => ({ ...own, file: `${folder}${own.file}` })),
    sideFiles: sideFiles.map((own) => ({ ...own, name: `${folder}${own.name}` })),
  };
}

function planFile(
  file: string,
  units: readonly CompressedUnit[],
  scheme: FolderScheme,
  hessian: HessianFile | undefined,
): PartsFile {
  const known = new Set(units.flatMap(listKnown));
  const {
    header,
    tensors: placed,
    fileBytes,
  } = encodeSafetensorsHeader(orderParts(units, known), HF_METADATA, "given");
  const places = new Map(placed.map((part) => [part.name, part]));
  const indexes = new Map(units.map(({ entry }, index) => [entry.name, index]));
  const tensors = units.map((unit, tensor): DerivedModule => {
    const parts = specsOf(unit).map(({ name }) => {
      const part = places.get(name);
      assert.ok(part !== undefined, "every part has a place");
      checkPlace(unit, part);
      return { ...part, shape: [...part.shape], offset: header.length + part.offset };
    });
    const made = parts.filter(({ name }) => !known.has(name));
    const bytes = made.reduce((sum, part) => sum + part.bytes, 0);
    const place = { tensor, shape: [...unit.entry.shape], offset: made[0]?.offset ?? fileBytes, bytes, parts };
    if (unit.kind === "copy") return place;
    const solved = hessian === undefined ? {} : { hessian: placeOf(findHessian(hessian, unit)) };
    const module = { ...place, scheme: scheme.id, scales: unit.matrix.dtype, ...solved };
    return scheme.measures === "nothing" ? module : { ...module, fused: fusedIn(unit, indexes) };
  });
  const output = `${scheme.form.container} ${scheme.id}`;
  const made = { output, file, fileBytes, header: Buffer.from(header).toString("base64"), tensors };
  if (hessian === undefined) return { format: "safetensors", ...made };
  const { entries: _, ...hessians } = hessian;
  return { format: "safetensors", ...made, hessians };
}

/** Names of the parts that headers alone say. */
function listKnown(unit: CompressedUnit): readonly string[] {
  if (unit.kind === "copy") return [];
  return unit.parts.filter(({ known }) => known !== undefined).map(({ name }) => `${unit.module}.${name}`);
}

/**
 * Parts that are made stand one unit after the other. Those that are known would put them at odd places, since some are
 * texts of any length: they begin the file, or end it where their elements are bytes.
 */
function orderParts(units: readonly CompressedUnit[], known: ReadonlySet<string>): readonly TensorSpec[] {
  const specs = units.flatMap(specsOf);
  const described = specs.filter(({ name }) => known.has(name)).sort(compareSpecs);
  const isByte = ({ dtype }: TensorSpec) => DTYPE_BITS[dtype] <= 8;
  return [
    ...described.filter((spec) => !isByte(spec)),
    ...specs.filter(({ name }) => !known.has(name)),
    ...described.filter(isByte),
  ];
}

function placeOf({ dtype, shape, ranges }: TensorEntry): NonNullable<DerivedModule["hessian"]> {
  return { dtype, shape: [...shape], ranges: ranges.map((range) => ({ ...range })) };
}

/** The tensors of the file that share what is measured of a matrix: whoever cut the files put them together. */
function fusedIn({ fused }: CompressedMatrix, indexes: ReadonlyMap<string, number>): number[] {
  return fused.map(({ name }) => {
    const index = indexes.get(name);
    assert.ok(index !== undefined, "what is fused lies in one file");
    return index;
  });
}

/** Parts go into the file as they are made, and readers map them where they lie. */
function checkPlace({ entry }: CompressedUnit, part: PlannedShard["tensors"][number]): void {
  const elementBytes = Math.max(1, DTYPE_BITS[part.dtype] / 8);
  if (part.offset % elementBytes === 0) return;
  throw new MergeyardError("QuantizeShapeUnsupported", {
    where: { tensor: entry.name },
    found: `${part.name} at byte ${part.offset} of its file`,
    expected: `a multiple of ${elementBytes} for ${part.dtype}`,
    hint: "shapes are odd: run `mergeyard quantize` on the merged checkpoint, which puts such tensors last",
  });
}

function indexOf(files: readonly PartsFile[]): string {
  const parts = files.flatMap(({ file, tensors }) =>
    tensors.flatMap((each) => each.parts.map((part) => ({ file, part }))),
  );
  const totalBytes = parts.reduce((sum, { part }) => sum + part.bytes, 0);
  return encodeShardIndex(new Map(parts.map(({ file, part }) => [part.name, file])), totalBytes);
}
