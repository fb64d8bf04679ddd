// Planning a run: reads the pipeline and the headers of its models, names the run after what it depends on, and writes
// its plan. Reads no weights; writes nothing when anything is wrong. The same work has the same run, so an interrupted
// one is found again, and a finished one is left alone.
import { layout } from "../core/artifact/layout.ts";
import { UNIVERSAL_FILE } from "../core/artifact/universal.ts";
import { hasCode, isVerdict, MergeyardError } from "../core/error.ts";
import { describeWarning } from "../core/formats/format.ts";
import { RECIPE_LIMITS } from "../core/limits.ts";
import { SHARD_BYTES_DEFAULT } from "../core/plan/defaults.ts";
import { documentNames } from "../core/plan/documents.ts";
import { chooseMachine, engineBytes, FLEET_DEFAULT, type Fleet } from "../core/plan/machine.ts";
import { type PipelineModel, planPipeline } from "../core/plan/plan-pipeline.ts";
import type { Plan, PlanHeader, PlanSource } from "../core/plan/schema.ts";
import { listSources, normaliseRecipe, placeOfSource } from "../core/recipe/normalise.ts";
import { readOutputs } from "../core/recipe/outputs.ts";
import { convertedCheckpoint, planConversion } from "../core/universal/convert-plan.ts";
import { readAll } from "../stores/objects.ts";
import type { ObjectStore } from "../stores/store.ts";
import { findCachedCheckpoint } from "./cache.ts";
import { openCheckpoint, openPlace, type StoredCheckpoint } from "./open-checkpoint.ts";
import { openHessianFiles } from "./open-hessians.ts";
import { openImatrices } from "./open-imatrix.ts";
import { readPlan, writePlan } from "./plan-file.ts";
import { readDocuments } from "./read-documents.ts";
import { readRecipe } from "./read-recipe.ts";
import { readRecord } from "./records.ts";
import { refuseRemoved } from "./removal.ts";
import { type ModelPlace, type ModelScope, resolveModel, resolveUri } from "./resolve-model.ts";
import {
  type ChannelRecord,
  JOBS_MAX,
  type PlanInput,
  type PlanOutput,
  planInputSchema,
  planOutputSchema,
  resultSchema,
  type StageRef,
} from "./schemas.ts";
import { defineStep, type StepDeps } from "./step.ts";
import { openYard, readChannel } from "./yard.ts";

/**
 * Throws YardMissing, YardPipelineMissing, the Recipe and Plan codes, what resolving and opening the models throws
 * (Yard, Checkpoint, Safetensors, Universal, Manifest codes), and what the stores throw.
 */
export const planStep = defineStep({
  name: "plan",
  input: planInputSchema,
  output: planOutputSchema,
  async run(input, deps): Promise<PlanOutput> {
    const yard = await openYard(deps.openStore, input.yard);
    const plan = await preparePlan(input, yard, deps);
    const { publish, warnings } = plan.header;
    for (const warning of warnings) deps.log({ event: "warning", run: plan.header.run, text: warning });
    const channel = publish && (await readChannel(yard, publish.model, publish.channel))?.value;
    // Later than what the channel says now, even where this machine's clock is behind the one that moved it.
    const plannedMs = Math.max(deps.now(), (channel?.decidedMs ?? 0) + 1);
    const base = { yard: yard.uri, plannedMs, model: publish?.model ?? null, channel: publish?.channel ?? null };
    for (let round = 1; ; round += 1) {
      const header = { ...plan.header, run: nameRun(plan.header.run, round) };
      const { run } = header;
      const finished = await findFinished(yard, header, channel, deps);
      if (finished !== undefined) {
        const current = channel === undefined ? null : { version: channel.version, run: channel.run };
        return { ...base, run, outcome: "unchanged", stages: [], version: finished.version, current };
      }
      const kept = await keepPlan(yard, { ...plan, header }, deps);
      if (kept === undefined) continue;
      await refuseGoing(yard, kept, deps);
      const stages = listStages(kept, input.fleet ?? FLEET_DEFAULT);
      return { ...base, run, outcome: "planned", stages, version: null, current: null };
    }
  },
});

/** The plan of a pipeline as things are now, written nowhere: what `planStep` keeps, and what a preview shows. */
export async function preparePlan(input: PlanInput, yard: ObjectStore, deps: StepDeps): Promise<Plan> {
  const { store: uri, key } = input.pipeline;
  const store = deps.openStore(uri);
  if ((await store.head(key, { signal: deps.signal })) === undefined) {
    throw new MergeyardError("YardPipelineMissing", { where: { store: uri, file: key } });
  }
  const bytes = await readAll(store, key, RECIPE_LIMITS.bytes + 1, { signal: deps.signal });
  const parsed = readRecipe(bytes, key);
  const recipe = normaliseRecipe(parsed);
  const scope: ModelScope = {
    openStore: deps.openStore,
    yard,
    aliases: [input.models, parsed.pipeline.models ?? {}],
    folders: [
      resolveUri(uri, key.split("/").slice(0, -1).join("/")),
      ...(input.folder === undefined ? [] : [input.folder]),
    ],
    placeOf: (source) => placeOfSource(parsed, source),
    signal: deps.signal,
  };
  const outputs = readOutputs(parsed.pipeline.outputs, parsed.origin);
  const imatrices = await openImatrices(outputs, [...scope.folders, yard.uri], deps);
  const hessians = await openHessianFiles(outputs, [...scope.folders, yard.uri], deps);
  const names = documentNames(recipe, outputs);
  const models: PipelineModel[] = [];
  for (const model of listSources(recipe)) {
    const opened = await openModel(scope, yard, model, input.shardBytes, deps);
    const { source, checkpoint } = opened;
    const place = { store: deps.openStore(source.store), prefix: source.prefix };
    models.push({ ...opened, documents: await readDocuments(place, checkpoint, names, deps.signal) });
  }
  const { shardBytes, fleet } = input;
  const stores = [yard, ...models.map(({ source }) => deps.openStore(source.store))];
  const sizes = {
    isRemote: stores.some(({ isLocal }) => !isLocal),
    threads: input.threads ?? fleet?.cpu.vcpus,
    memoryBytes: input.memoryBytes ?? (fleet && engineBytes(fleet.cpu.memoryMiB)),
    memoryBytesMax: input.memoryBytes ?? (fleet && engineBytes(fleet.cpu.memoryMiBMax)),
  };
  return planPipeline({ parsed, recipe, models, yard: yard.uri }, { shardBytes, imatrices, hessians, ...sizes });
}

/**
 * A model of the recipe with its headers. What has digests of its own is read where it is; an upload or folder that was
 * adopted before is read from its universal checkpoint; another is adopted by this run.
 */
async function openModel(
  scope: ModelScope,
  yard: ObjectStore,
  model: string,
  shardBytes: number | undefined,
  deps: StepDeps,
): Promise<PipelineModel> {
  const place = await resolveModel(scope, model);
  const opened = await openPlace(place, deps.signal);
  for (const warning of opened.warnings) deps.log({ event: "warning", model, text: describeWarning(warning) });
  const source = describeSource(model, place, opened, opened.digest === undefined ? "pending" : "adopted");
  const base = { checkpointName: place.name };
  if (opened.digest !== undefined) return { ...base, source, checkpoint: opened.checkpoint };
  const known = await findAdopted(yard, opened.fingerprint, deps);
  if (known === undefined) return { ...base, source, ...planOwn(opened, shardBytes) };
  const { prefix, checkpoint } = known;
  // Format and fingerprint stay the upload's own: the run keeps its name from before to after the adoption.
  const { file: _, ...named } = source;
  const adopted = { ...named, store: yard.uri, prefix, state: "adopted" as const };
  return { ...base, source: adopted, checkpoint };
}

/** What this run will adopt as it is, or convert: then the merge reads what the conversion will have made. */
function planOwn({ conversion, checkpoint }: StoredCheckpoint, shardBytes: number | undefined) {
  if (conversion === undefined) return { checkpoint };
  const files = planConversion(conversion, shardBytes ?? SHARD_BYTES_DEFAULT, { states: true });
  return { checkpoint: convertedCheckpoint(checkpoint, files), conversion: files };
}

function describeSource(
  model: string,
  place: ModelPlace,
  opened: StoredCheckpoint,
  state: PlanSource["state"],
): PlanSource {
  const { store, prefix, file } = place;
  const { checkpoint, fingerprint } = opened;
  const source = { model, store: store.uri, prefix, format: checkpoint.format, fingerprint, state };
  return file === undefined ? source : { ...source, file };
}

/** The universal checkpoint of a source that was adopted before; undefined when it is not whole any more. */
async function findAdopted(yard: ObjectStore, fingerprint: string, deps: StepDeps) {
  const cached = await findCachedCheckpoint(yard, fingerprint, deps.signal);
  if (cached === undefined) return undefined;
  try {
    const opened = await openCheckpoint(yard, cached.prefix, deps.signal);
    return opened.digest === cached.digest ? { prefix: cached.prefix, checkpoint: opened.checkpoint } : undefined;
  } catch (cause) {
    if (!isVerdict(cause)) throw cause;
    deps.log({ event: "checkpoint-dropped", prefix: cached.prefix, code: cause.code });
    return undefined;
  }
}

/** Rounds after the first have a name of their own, because nobody in the pipeline deletes what the first has left. */
function nameRun(run: string, round: number): string {
  return round === 1 ? run : `${run}-${round}`;
}

/**
 * Writes recipe and plan; the plan last, it makes the run exist. The plan that was there before counts, with the
 * receipts of its units. Undefined when it can never be finished: a checkpoint that it reads was deleted since, or
 * another version wrote it in another form.
 */
async function keepPlan(yard: ObjectStore, plan: Plan, deps: StepDeps): Promise<PlanHeader | undefined> {
  const { run, recipe } = plan.header;
  if ((await yard.head(layout.plan(run), { signal: deps.signal })) !== undefined) {
    const before = await readPlan(yard, run, deps.signal).catch((cause: unknown) => {
      if (!hasCode(cause, "YardPlanInvalid")) throw cause;
      return undefined;
    });
    if (before !== undefined && (await sourcesStand(before.header, plan.header, deps))) return before.header;
    deps.log({ event: "run-abandoned", run });
    return undefined;
  }
  await yard.create(layout.recipe(run), new TextEncoder().encode(recipe), { signal: deps.signal });
  await writePlan(yard, plan, deps.signal);
  return (await readPlan(yard, run, deps.signal)).header;
}

/** False when a checkpoint that an earlier plan of the run found is not there any more. */
async function sourcesStand(before: PlanHeader, now: PlanHeader, deps: StepDeps): Promise<boolean> {
  for (const [index, { state, store, prefix }] of before.sources.entries()) {
    const same = now.sources[index];
    if (state !== "adopted" || (same?.store === store && same.prefix === prefix)) continue;
    if ((await deps.openStore(store).head(`${prefix}${UNIVERSAL_FILE}`, { signal: deps.signal })) === undefined)
      return false;
  }
  return true;
}

/** `gc` looks for plans when it has left its note, so that one of the two sees the other. */
async function refuseGoing(yard: ObjectStore, { sources }: PlanHeader, deps: StepDeps): Promise<void> {
  for (const { store, prefix } of sources) {
    if (store === yard.uri && prefix !== "") await refuseRemoved(yard, prefix, deps.signal);
  }
}

/**
 * The result of a run that has nothing left to do: it ended before, and its channel points to what it published, or to
 * what a person chose since. Undefined when it is new, unfinished, or when another run has moved the channel: then it
 * is asked for again, and publishes again.
 */
async function findFinished(
  yard: ObjectStore,
  { run, publish }: PlanHeader,
  channel: ChannelRecord | undefined,
  deps: StepDeps,
) {
  const result = (await readRecord(yard, layout.result(run), resultSchema, deps.signal))?.value;
  if (result === undefined || publish === undefined) return result;
  const stands = channel !== undefined && (channel.version === result.version || channel.run === null);
  return stands ? result : undefined;
}

/**
 * Bytes read and written that make a job worth its start: a process, and on Batch a container. Smaller, and small
 * models spend their time starting; larger, and medium ones use fewer machines than they could.
 */
const JOB_BYTES_MIN = 32 * 1024 * 1024;

/** The stages that have work, each with the size of its array of jobs and the machine that they take. */
export function listStages(header: PlanHeader, fleet: Fleet): StageRef[] {
  return header.stages
    .filter(({ units }) => units > 0)
    .map((stage) => {
      const { index, name, kind, units, bytesRead, bytesWritten } = stage;
      const { queue, vcpus, memoryMiB } = chooseMachine(stage, fleet);
      const size = { queue, vcpus, memoryMiB, memoryBytes: engineBytes(memoryMiB) };
      const worthwhile = Math.max(1, Math.ceil((bytesRead + bytesWritten) / JOB_BYTES_MIN));
      return { index, name, kind, units, jobs: Math.min(JOBS_MAX, units, worthwhile), ...size };
    });
}
