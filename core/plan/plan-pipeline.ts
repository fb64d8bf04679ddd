// The whole plan of a run: adopt and describe what is not yet in the universal format, then merge. Pure: the step that
// calls it has read the headers, and writes what comes back.
import { digestJson } from "../artifact/digest.ts";
import { shortDigest } from "../artifact/layout.ts";
import type { ByteRange, CheckpointFile, Gather } from "../checkpoint.ts";
import type { MergeMethod } from "../methods/method.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { readOutputs } from "../recipe/outputs.ts";
import type { ParsedRecipe } from "../recipe/parse.ts";
import { gatherBytes } from "../universal/box.ts";
import type { ConvertedFile } from "../universal/convert-plan.ts";
import { ENGINE_VERSION } from "../version.ts";
import { plainPacking } from "./adapter.ts";
import { SHARD_BYTES_DEFAULT } from "./defaults.ts";
import { heaviest, type StageWork } from "./machine.ts";
import { DIGEST_PEAK_BYTES } from "./memory.ts";
import type { MergeModel, MergeOptions } from "./merge-task.ts";
import { planRecipe } from "./plan-recipe.ts";
import type { AdoptUnit, ConvertUnit, DescribeUnit, MergeUnit, Plan, PlanSource, Stage, Unit } from "./schema.ts";

/** A model of a pipeline. A `pending` source becomes a universal checkpoint of `checkpointName` during the run. */
export type PipelineModel = MergeModel & {
  readonly checkpointName: string;
  /** Files that a pending source in another format is converted to; `checkpoint` is then what they will be. */
  readonly conversion?: readonly ConvertedFile<ByteRange>[] | undefined;
};

export type PipelineTask = {
  readonly parsed: ParsedRecipe;
  /** `normaliseRecipe(parsed)`. */
  readonly recipe: Recipe;
  /** Every model of `listSources(recipe)`, in that order. */
  readonly models: readonly PipelineModel[];
  /** URI of the store that runs it. */
  readonly yard: string;
};

/**
 * The plan of a pipeline's run. Stages without units are left out; units are in the order of stages and indexes.
 * Throws what planMerge throws.
 */
export function planPipeline({ parsed, recipe, models, yard }: PipelineTask, options: MergeOptions = {}): Plan {
  const { pipeline, text } = parsed;
  const adoption = planAdoption(models, yard);
  const hasAdoption = adoption.describes.length > 0;
  const stage = hasAdoption ? DESCRIBE_STAGE + 1 : 0;
  const name = pipeline.publish?.model ?? pipeline.name;
  const sources = models.map(({ source }) => ({ ...source, ...adoption.describedBy(source) }));
  const { statistics } = pipeline;
  const outputs = readOutputs(pipeline.outputs, parsed.origin);
  const merges = planRecipe({ name, recipe, text, models }, { ...options, stage, statistics, outputs });
  const { documents, output } = merges;
  const made = merges.sources.slice(models.length);
  const stages = [
    ...(hasAdoption ? [describeStage(ADOPT_STAGE, "adopt", "shard", adoption.adopts, "move")] : []),
    ...(hasAdoption ? [describeStage(DESCRIBE_STAGE, "describe", "shard", adoption.describes, "move")] : []),
    ...documents.flatMap(({ name: document, plan: { method, prepare, units } }) => {
      const own = document === undefined ? "" : ` ${document}`;
      const first = (units[0]?.stage ?? stage) - prepare.length;
      return [
        ...prepare.map((round, index) =>
          describeStage(
            first + index,
            `prepare${own} ${index + 1} of ${prepare.length}`,
            "prepare",
            round,
            method.locality,
          ),
        ),
        describeStage(first + prepare.length, `merge${own}`, "apply", units, workOf(units, method)),
      ];
    }),
  ];
  return {
    header: {
      plan: 1,
      engine: ENGINE_VERSION,
      name: pipeline.name,
      run: nameRun(parsed, sources, options),
      recipe: text,
      method: output.method.id,
      sources: [...sources, ...made],
      stages,
      sideFiles: [...output.sideFiles],
      publishesCheckpoint: outputs.checkpoint,
      checks: { maxNonFinite: pipeline.checks.max_nonfinite },
      ...(pipeline.publish == null
        ? {}
        : { publish: { model: pipeline.publish.model, channel: pipeline.publish.channel } }),
      warnings: [...merges.warnings, ...idleParts(pipeline)],
    },
    units: [
      ...adoption.adopts,
      ...adoption.describes,
      ...documents.flatMap(({ plan }) => [...plan.prepare.flat(), ...plan.units]),
    ],
  };
}

/** Parts of a pipeline that are understood and have no effect. */
function idleParts({ publish }: PipelineTask["parsed"]["pipeline"]): readonly string[] {
  return publish?.keep == null ? [] : ["publish.keep: a run deletes nothing; `mergeyard gc` keeps so many versions"];
}

const ADOPT_STAGE = 0;
const DESCRIBE_STAGE = 1;

/** Digest of everything the run's output depends on: the same work has the same name, and is found again. */
function nameRun(parsed: ParsedRecipe, sources: readonly PlanSource[], options: MergeOptions): string {
  const digest = digestJson({
    engine: ENGINE_VERSION,
    recipe: parsed.document,
    shardBytes: options.shardBytes ?? SHARD_BYTES_DEFAULT,
    sources: sources.map(({ model, format, fingerprint }) => ({ model, format, fingerprint })),
    hessians: options.hessians?.size ? [...options.hessians.values()].map(({ fingerprint }) => fingerprint) : undefined,
    imatrices: options.imatrices?.size ? [...options.imatrices.values()].map(({ digest }) => digest) : undefined,
  });
  return shortDigest(digest);
}

type Adoption = {
  readonly adopts: readonly (AdoptUnit | ConvertUnit)[];
  readonly describes: readonly DescribeUnit[];
  readonly describedBy: (source: PlanSource) => Pick<PlanSource, "describedBy">;
};

/** Units that digest and describe pending sources; a folder that two names mean is adopted once. */
function planAdoption(models: readonly PipelineModel[], yard: string): Adoption {
  const adopts: (AdoptUnit | ConvertUnit)[] = [];
  const describes: DescribeUnit[] = [];
  const byFolder = new Map<string, number>();
  models.forEach(({ source, checkpoint, checkpointName, conversion }, index) => {
    if (source.state !== "pending" || byFolder.has(folderKey(source))) return;
    const own =
      conversion === undefined
        ? checkpoint.tensorFiles.map((file, offset) => adoptUnit(file, index, adopts.length + offset))
        : conversion.map((file, offset) => convertUnit(file, index, adopts.length + offset));
    adopts.push(...own);
    // Files of the yard are linked, or copied by its server; from elsewhere every byte passes the worker.
    const isCopied = conversion === undefined && source.store !== yard;
    const bytesCopied = isCopied ? own.reduce((sum, { bytesRead }) => sum + bytesRead, 0) : 0;
    byFolder.set(folderKey(source), describes.length);
    describes.push({
      op: "describe",
      stage: DESCRIBE_STAGE,
      index: describes.length,
      peakBytes: DIGEST_PEAK_BYTES,
      bytesRead: bytesCopied,
      bytesWritten: bytesCopied,
      source: index,
      model: checkpointName,
      adopts: own.map(({ stage, index: unit }) => ({ stage, index: unit })),
    });
  });
  return {
    adopts,
    describes,
    describedBy(source) {
      const index = source.state === "pending" ? byFolder.get(folderKey(source)) : undefined;
      return index === undefined ? {} : { describedBy: { stage: DESCRIBE_STAGE, index } };
    },
  };
}

function adoptUnit(file: CheckpointFile, source: number, index: number): AdoptUnit {
  const costs = { peakBytes: DIGEST_PEAK_BYTES, bytesRead: file.bytes, bytesWritten: 0 };
  return { op: "adopt", stage: ADOPT_STAGE, index, ...costs, source, file: file.name };
}

function convertUnit(
  { file, fileBytes, tensors, gathers }: ConvertedFile<ByteRange>,
  source: number,
  index: number,
): ConvertUnit {
  const gathered = tensors.flatMap(({ name, dtype, shape }, position) => {
    const gather = gathers[position];
    return gather === undefined ? [] : [{ name, dtype, shape: [...shape], gather }];
  });
  const bytesRead = gathered.reduce((sum, { gather, dtype }) => sum + gatherBytes(gather, dtype), 0);
  const costs = { peakBytes: DIGEST_PEAK_BYTES, bytesRead, bytesWritten: fileBytes };
  const plain = gathered.map((tensor) => ({ ...tensor, gather: plainGather(tensor.gather) }));
  return { op: "convert", stage: ADOPT_STAGE, index, ...costs, source, file, tensors: plain };
}

/** The gather as the schema's mutable arrays. */
function plainGather({ rule, copies, packing }: Gather): ConvertUnit["tensors"][number]["gather"] {
  const plain = copies.map((boxes) =>
    boxes.map(({ ranges, sourceShape, sourceOffset, size, targetOffset }) => ({
      ranges: ranges.map(({ file, offset, bytes }) => ({ file, offset, bytes })),
      sourceShape: [...sourceShape],
      sourceOffset: [...sourceOffset],
      size: [...size],
      targetOffset: [...targetOffset],
    })),
  );
  return packing === undefined ? { rule, copies: plain } : { rule, copies: plain, packing: plainPacking(packing) };
}

function folderKey({ store, prefix, file = "" }: PlanSource): string {
  return `${store}\n${prefix}${file}`;
}

/** A merge may leave all its tensors to copies: then only bytes move. */
function workOf(units: readonly MergeUnit[], method: MergeMethod): StageWork {
  const ids = new Set(units.flatMap(({ tensors }) => tensors.map((tensor) => tensor.method)));
  return heaviest([...ids].map((id) => (id === method.id ? method.locality : "move")));
}

function describeStage(
  index: number,
  name: string,
  kind: Stage["kind"],
  units: readonly Unit[],
  work: StageWork,
): Stage {
  return {
    index,
    // Part of the jobs' names, which Batch wants to be letters, digits, hyphens and underscores.
    name: name.replace(/[^A-Za-z0-9_-]+/g, "-"),
    kind,
    work,
    units: units.length,
    bytesRead: units.reduce((sum, unit) => sum + unit.bytesRead, 0),
    bytesWritten: units.reduce((sum, unit) => sum + unit.bytesWritten, 0),
    peakBytes: units.reduce((most, unit) => Math.max(most, unit.peakBytes), 0),
  };
}
