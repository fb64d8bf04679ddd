// `mergeyard merge`: one merge without a yard. The same planner and the same merge units as a pipeline's run; sources
// are read where they are, and the output is a folder that appears whole or not at all.
import { pathToFileURL } from "node:url";
import { type Digest, digestBytes } from "../core/artifact/digest.ts";
import {
  buildManifest,
  encodeManifest,
  MANIFEST_FILE,
  type ManifestFile,
  versionName,
} from "../core/artifact/manifest.ts";
import { collectStatistics, encodeStatistics, STATISTICS_FILE, type Statistics } from "../core/artifact/statistics.ts";
import { MergeyardError } from "../core/error.ts";
import { describeWarning } from "../core/formats/format.ts";
import { RECIPE_LIMITS } from "../core/limits.ts";
import { mapBounded } from "../core/map-bounded.ts";
import { documentNames } from "../core/plan/documents.ts";
import { warnOfLosses } from "../core/plan/loss-warnings.ts";
import { completedBytes } from "../core/plan/model-card.ts";
import type { MergePlan } from "../core/plan/plan-merge.ts";
import { type DocumentPlan, planRecipe } from "../core/plan/plan-recipe.ts";
import type { PlanSource, SideFile } from "../core/plan/schema.ts";
import { listSources, normaliseRecipe, placeOfSource } from "../core/recipe/normalise.ts";
import { type OutputRequest, type Outputs, readOutputs } from "../core/recipe/outputs.ts";
import type { ParsedRecipe } from "../core/recipe/parse.ts";
import { sumOf } from "../core/sum-of.ts";
import { checkReadable } from "../core/universal/conversion.ts";
import { ENGINE_VERSION } from "../core/version.ts";
import type {
  BytesDone,
  DigestRanges,
  ExecuteMeasure,
  ExecuteMerge,
  MergeResult,
  ResolvedSource,
} from "../engine/request.ts";
import { runRounds } from "../engine/run-rounds.ts";
import { planDigest } from "../steps/checkpoint-digest.ts";
import { openPlace, type StoredCheckpoint } from "../steps/open-checkpoint.ts";
import { checkUnitHessians, openHessianFiles } from "../steps/open-hessians.ts";
import { openImatrices, openUnitImportance } from "../steps/open-imatrix.ts";
import { readDocuments } from "../steps/read-documents.ts";
import { readRecipe } from "../steps/read-recipe.ts";
import { type ModelPlace, resolveModel } from "../steps/resolve-model.ts";
import { copyVerified, digestFile } from "../steps/stream.ts";
import { writeBytes } from "../stores/objects.ts";
import type { ObjectStore, OpenStore } from "../stores/store.ts";
import { beginOutputFolder } from "./output-folder.ts";

export type MergeFolderRequest = {
  /** The recipe: a mergekit configuration or a pipeline file, of which only the merge part counts here. */
  readonly recipe: { readonly store: string; readonly key: string };
  /** Names that win over everything else; values are paths or URIs. */
  readonly models: Readonly<Record<string, string>>;
  /** URI of the current folder, the last place where a relative path is looked up. */
  readonly currentFolder: string;
  /** URI of the cache of Hugging Face's tools. */
  readonly hubCache?: string | undefined;
  /** Absolute path of the output. */
  readonly target: string;
  /** Replace a former output. */
  readonly force: boolean;
  readonly threads: number;
  readonly memoryBytes: number;
  /** Bytes of tensors in one output file; the planner's default where it is left out. */
  readonly shardBytes?: number | undefined;
  /** Measure how the models agree and disagree, for statistics.json. */
  readonly statistics: boolean;
  /** State the digests of inputs that state none themselves: taken while they are merged, the rest read besides. */
  readonly digestInputs: boolean;
  /** In place of the recipe's own. */
  readonly outputs?: readonly OutputRequest[] | undefined;
};

export type MergeFolderDeps = {
  readonly openStore: OpenStore;
  readonly executeMerge: ExecuteMerge;
  readonly executeMeasure: ExecuteMeasure;
  readonly digestRanges: DigestRanges;
  readonly signal: AbortSignal;
  /** Once, when everything that headers can tell is settled and no byte of weights has been read. */
  readonly planned: (plan: { readonly totalBytes: number; readonly warnings: readonly string[] }) => void;
  /** Bytes read and written so far, of `totalBytes`. */
  readonly progress: (doneBytes: number) => void;
  /** When the output is merged and bytes of inputs are still to be digested; `progress` starts anew. */
  readonly digesting: (totalBytes: number) => void;
};

export type MergeFolderResult = {
  readonly target: string;
  readonly version: string;
  readonly method: string;
  readonly files: number;
  readonly tensors: number;
  readonly bytes: number;
  readonly bytesRead: number;
  /** Files of quantized outputs. */
  readonly derived: readonly { readonly file: string; readonly bytes: number }[];
  /** NaN and infinite values of the output. */
  readonly nonFinite: number;
  readonly warnings: readonly string[];
  /** Of the warnings, those about quantized outputs that lose more than the merge changed. */
  readonly hidden: readonly string[];
  /** When asked for or with quantized outputs, and when there was anything to measure. */
  readonly statistics: Statistics | undefined;
};

/**
 * Plans and merges; the folder is whole at `target` when this resolves, and nothing is left when it rejects.
 * Throws CliOutputOccupied, and Recipe, Plan, Checkpoint, Engine and Store codes.
 */
export async function mergeFolder(request: MergeFolderRequest, deps: MergeFolderDeps): Promise<MergeFolderResult> {
  const parsed = await loadRecipe(request, deps);
  const recipe = normaliseRecipe(parsed);
  const outputs = outputsOf(request, parsed);
  const imatrices = await openImatrices(outputs, [request.recipe.store, request.currentFolder], deps);
  const hessians = await openHessianFiles(outputs, [request.recipe.store, request.currentFolder], deps);
  const names = documentNames(recipe, outputs);
  const models = await Promise.all(listSources(recipe).map((model) => openModel(model, names, parsed, request, deps)));
  const name = parsed.pipeline.publish?.model ?? parsed.pipeline.name;
  const {
    documents,
    output: plan,
    warnings: said,
  } = planRecipe(
    {
      name,
      recipe,
      text: parsed.text,
      models: models.map(({ source, opened, documents }) => ({ source, documents, ...opened })),
    },
    {
      threads: request.threads,
      memoryBytes: request.memoryBytes,
      isRemote: models.some(({ source }) => !deps.openStore(source.store).isLocal),
      shardBytes: request.shardBytes,
      statistics: request.statistics,
      outputs,
      imatrices,
      hessians,
    },
  );
  const warnings = [...models.flatMap(({ opened }) => opened.warnings.map(describeWarning)), ...said];
  const output = await beginOutputFolder(request.target, { force: request.force });
  try {
    const plans = documents.map((document) => document.plan);
    const merged = plans.flatMap(({ units }) => units).reduce((sum, own) => sum + own.bytesRead + own.bytesWritten, 0);
    const totalBytes = plans.flatMap(({ prepare }) => prepare.flat()).reduce((sum, own) => sum + own.bytesRead, merged);
    deps.planned({ totalBytes, warnings });
    const { href } = pathToFileURL(output.path);
    const target = deps.openStore(`${href}?durable=false`);
    const sources = models.map(toResolved);
    const place = { uri: target.uri, scratch: output.scratch, checkpoint: outputs.checkpoint };
    const results = await runDocuments(documents, sources, place, request, deps);
    const listings: ManifestFile[] = results.flatMap(({ file, derived }) =>
      outputs.checkpoint ? [file, ...derived] : [...derived],
    );
    const digests = await digestModels(models, results, request, deps);
    for (const file of plan.sideFiles) listings.push(await putSideFile(file, { models, digests }, target, deps));
    const statistics = await putStatistics(plan.method.id, results, target, listings, deps);
    const manifest = buildManifest({
      model: name,
      engine: ENGINE_VERSION,
      method: plan.method.id,
      recipe: parsed.text,
      inputs: models.map(({ source }, index) => ({ model: source.model, digest: digests[index] ?? null })),
      files: listings,
    });
    const bytes = encodeManifest(manifest);
    await writeBytes(target, MANIFEST_FILE, bytes, deps);
    deps.signal.throwIfAborted();
    await output.commit();
    const summary = summarise(results, plan, listings);
    const hidden = warnOfLosses(results.flatMap(({ losses }) => losses));
    const all = [...warnings, ...hidden];
    return { ...summary, target: request.target, version: versionName(manifest), warnings: all, hidden, statistics };
  } catch (error) {
    throw await output.discard(error);
  }
}

async function putStatistics(
  method: string,
  results: readonly MergeResult[],
  target: ObjectStore,
  listings: ManifestFile[],
  deps: MergeFolderDeps,
): Promise<Statistics | undefined> {
  const statistics = collectStatistics(method, results);
  if (statistics === undefined) return undefined;
  const bytes = encodeStatistics(statistics);
  await writeBytes(target, STATISTICS_FILE, bytes, deps);
  listings.push({ name: STATISTICS_FILE, bytes: bytes.length, digest: digestBytes(bytes) });
  return statistics;
}

type OpenedModel = {
  readonly source: PlanSource;
  readonly opened: StoredCheckpoint;
  readonly documents: ReadonlyMap<string, Uint8Array>;
  readonly place: ModelPlace;
};

/**
 * Digests of the models, in order: those that they state and, when asked for, those of their bytes: what merging has
 * not digested is read by all threads.
 */
async function digestModels(
  models: readonly OpenedModel[],
  results: readonly MergeResult[],
  { digestInputs, threads }: MergeFolderRequest,
  { digestRanges, digesting, progress, signal }: MergeFolderDeps,
): Promise<readonly (Digest | undefined)[]> {
  if (!digestInputs) return models.map(({ opened }) => opened.digest);
  const read = results.flatMap(({ inputDigests }) => inputDigests ?? []);
  const plans = models.map(({ place, opened }, index) => {
    const known = read.filter(({ source }) => source === index);
    return planDigest(place, opened, known, signal);
  });
  const ranges = plans.flatMap((plan) => plan.ranges);
  if (ranges.length > 0) digesting(ranges.reduce((sum, { bytes }) => sum + bytes, 0));
  const found = [
    ...(await digestRanges(ranges, { threads, signal, progress: ({ bytesRead }) => progress(bytesRead) })),
  ];
  const own = plans.map((plan) => found.splice(0, plan.ranges.length));
  return mapBounded(plans, (plan, index) => plan.digest(own[index] ?? []));
}

/** Those of the command line stand in no file. */
function outputsOf({ outputs }: MergeFolderRequest, { pipeline, origin }: ParsedRecipe): Outputs {
  if (outputs === undefined) return readOutputs(pipeline.outputs, origin);
  return readOutputs(outputs, { file: undefined, line: () => undefined });
}

async function loadRecipe({ recipe }: MergeFolderRequest, deps: MergeFolderDeps): Promise<ParsedRecipe> {
  const store = deps.openStore(recipe.store);
  const stored = await store.get(recipe.key, RECIPE_LIMITS.bytes, deps);
  if (stored === undefined) {
    throw new MergeyardError("CliSourceMissing", { where: { store: store.uri, file: recipe.key } });
  }
  return readRecipe(stored.bytes, recipe.key);
}

async function openModel(
  model: string,
  documentNames: readonly string[],
  parsed: ParsedRecipe,
  { recipe, models, currentFolder, hubCache }: MergeFolderRequest,
  { openStore, signal }: MergeFolderDeps,
): Promise<OpenedModel> {
  const place = await resolveModel(
    {
      openStore,
      yard: undefined,
      aliases: [models, parsed.pipeline.models ?? {}],
      folders: [recipe.store, currentFolder],
      hubCache,
      placeOf: (source) => placeOfSource(parsed, source),
      signal,
    },
    model,
  );
  const opened = await openPlace(place, signal);
  checkReadable(opened.checkpoint);
  const documents = await readDocuments(place, opened.checkpoint, documentNames, signal);
  const source: PlanSource = {
    model,
    store: place.store.uri,
    prefix: place.prefix,
    format: opened.checkpoint.format,
    fingerprint: opened.fingerprint,
    state: opened.digest === undefined ? "foreign" : "adopted",
  };
  return { source, opened, documents, place };
}

/** Tensor digests that the checkpoint states of itself are checked while it is read. */
function toResolved({ source, opened }: OpenedModel): ResolvedSource {
  const { model, store, prefix } = source;
  const stated = opened.checkpoint.tensors.flatMap(({ name, digest }) =>
    digest === undefined ? [] : [[name, digest]],
  );
  return { model, store, prefix, digests: stated.length === 0 ? undefined : Object.fromEntries(stated) };
}

/** Merges every document; results that later ones use go to the scratch folder. Returns the output's. */
async function runDocuments(
  documents: readonly DocumentPlan[],
  models: readonly ResolvedSource[],
  target: { readonly uri: string; readonly scratch: string; readonly checkpoint: boolean },
  { threads, memoryBytes, digestInputs }: MergeFolderRequest,
  deps: MergeFolderDeps,
): Promise<readonly MergeResult[]> {
  const { executeMerge, executeMeasure, signal, progress } = deps;
  const sources = [...models];
  const results: MergeResult[] = [];
  let before = 0;
  for (const [index, { name, plan }] of documents.entries()) {
    const isKept = name === undefined && target.checkpoint;
    const prefix = isKept ? "" : `${target.scratch}/${index}/`;
    const own: MergeResult[] = [];
    const show = ({ bytesRead, bytesWritten }: BytesDone) => progress(before + bytesRead + bytesWritten);
    const state = await runRounds(plan, async (unit, prepare, known) => {
      const request = { unit, round: prepare.round, state: known, sources, threads, memoryBytes };
      const { part } = await executeMeasure(request, { signal, progress: show });
      before += prepare.bytesRead;
      progress(before);
      return part;
    });
    for (const unit of plan.units) {
      const place = { store: target.uri, key: `${prefix}${unit.file}`, derivedPrefix: "" };
      const importance = await openUnitImportance(unit, deps);
      await checkUnitHessians(unit, deps);
      const request = { unit, sources, state, importance, target: place, threads, memoryBytes, digestInputs };
      own.push(await executeMerge(request, { signal, progress: show }));
      before += unit.bytesRead + unit.bytesWritten;
      progress(before);
    }
    if (name === undefined) results.push(...own);
    else sources.push({ model: name, store: target.uri, prefix, digests: digestsOf(own) });
  }
  return results;
}

function digestsOf(results: readonly MergeResult[]): Readonly<Record<string, string>> {
  return Object.fromEntries(results.flatMap(({ file }) => file.tensors.map(({ name, digest }) => [name, digest])));
}

async function putSideFile(
  file: SideFile,
  { models, digests }: { readonly models: readonly OpenedModel[]; readonly digests: readonly (Digest | undefined)[] },
  target: ObjectStore,
  { signal }: MergeFolderDeps,
): Promise<ManifestFile> {
  if (file.from === "text") {
    const bytes = completedBytes(file, digests);
    await writeBytes(target, file.name, bytes, { signal });
    return { name: file.name, bytes: bytes.length, digest: digestBytes(bytes) };
  }
  const model = models[file.source];
  const source = { store: model?.place.store ?? target, key: `${model?.source.prefix}${file.file}`, bytes: file.bytes };
  const listing = { name: file.name, bytes: file.bytes, digest: await digestFile(source, signal) };
  await copyVerified(source, { store: target, key: file.name }, listing, signal);
  return listing;
}

function summarise(results: readonly MergeResult[], plan: MergePlan, listings: readonly ManifestFile[]) {
  return {
    method: plan.method.id,
    files: listings.length + 1,
    tensors: sumOf(results, ({ file }) => file.tensors.length),
    bytes: sumOf(results, ({ file }) => file.bytes),
    bytesRead: sumOf(results, ({ bytesRead }) => bytesRead),
    derived: results.flatMap(({ derived }) => derived.map(({ name, bytes }) => ({ file: name, bytes }))),
    nonFinite: sumOf(results, ({ nonFinite }) => nonFinite.output),
  };
}
