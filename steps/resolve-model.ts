// What the name of a model means to a pipeline: which folder of which store, and whether its tensor digests are known.
// The order is the user's contract: names given for this run, the pipeline's `models:`, the yard, the recipe's folder,
// the current folder, the cache of Hugging Face's tools. Reads listings and small records, and headers where an upload
// has to be shown complete.
import { checkName } from "../core/artifact/key.ts";
import { layout } from "../core/artifact/layout.ts";
import { isUnfinishedPush, parseUploadMarker, UPLOAD_MARKER } from "../core/artifact/upload.ts";
import { type ErrorPlace, isVerdict, MergeyardError } from "../core/error.ts";
import { gguf } from "../core/formats/gguf/checkpoint.ts";
import { isSingleFile } from "../core/formats/registry.ts";
import { ARTIFACT_LIMITS } from "../core/limits.ts";
import type { ObjectStore, OpenStore } from "../stores/store.ts";
import { findInHubCache, parseHubName } from "./hub-cache.ts";
import { openCheckpoint } from "./open-checkpoint.ts";
import { findVersion, listModel, listUploads, parseVersionReference, readChannel, type UploadListing } from "./yard.ts";

/** Where names are looked up. `yard` is absent for a merge without one. */
export type ModelScope = {
  readonly openStore: OpenStore;
  readonly yard: ObjectStore | undefined;
  /** Names that win over everything: the command line's first, then the pipeline's own. */
  readonly aliases: readonly Readonly<Record<string, string>>[];
  /** URIs of the folders where relative paths are tried, in order: the recipe's, the current one. */
  readonly folders: readonly string[];
  /** URI of the cache of Hugging Face's tools on this machine, the last place of all. */
  readonly hubCache?: string | undefined;
  /** Where the recipe names a model, for who has to correct it. */
  readonly placeOf?: ((reference: string) => ErrorPlace) | undefined;
  readonly signal: AbortSignal;
};

/** A model's folder. `name` is what it would be called under checkpoints/. */
export type ModelPlace = {
  readonly store: ObjectStore;
  readonly prefix: string;
  /** The file of the folder that is the model, where a file is named; other files beside it are not looked at. */
  readonly file?: string | undefined;
  readonly name: string;
  /** upload: below incoming/; version: below artifacts/; checkpoint: below checkpoints/; folder: anywhere else. */
  readonly kind: "upload" | "version" | "checkpoint" | "folder";
};

/**
 * Finds the folder that a recipe's model reference means.
 * Throws YardModelMissing (with every place that was tried), YardUploadIncomplete, YardVersionMissing,
 * YardChannelMissing, YardReferenceInvalid.
 */
export async function resolveModel(scope: ModelScope, reference: string): Promise<ModelPlace> {
  const alias = scope.aliases.find((names) => Object.hasOwn(names, reference))?.[reference];
  const text = alias ?? reference;
  const where = { ...scope.placeOf?.(reference), model: reference };
  const tried: string[] = [];
  const place = (await findExplicit(scope, text, where)) ?? (await findInYard(scope, text, tried));
  if (place !== undefined) return place;
  for (const folder of scope.folders) {
    const uri = resolveUri(folder, text);
    tried.push(uri);
    if (await hasObjects(scope.openStore(uri), "")) return folderPlace(scope.openStore(uri), text);
    const file = await findFile(scope, uri);
    if (file !== undefined) return file;
  }
  const hubName = scope.hubCache === undefined ? undefined : parseHubName(text);
  if (scope.hubCache !== undefined && hubName !== undefined) {
    tried.push(`${scope.hubCache} (\`hf download ${hubName.repository}\` puts it there)`);
    const cached = await findInHubCache(scope.openStore, scope.hubCache, hubName, scope.signal);
    if (cached !== undefined) return folderPlace(cached, hubName.repository);
  }
  const expected = [...new Set(tried)].join(" or ");
  const hint = scope.yard === undefined ? "check the path, or say where it is with --model NAME=PATH" : undefined;
  throw new MergeyardError("YardModelMissing", { where, expected, hint });
}

/** URIs, absolute paths and the yard's own areas: one place is meant, nothing else is tried. */
async function findExplicit(scope: ModelScope, text: string, where: ErrorPlace): Promise<ModelPlace | undefined> {
  if (/^[a-z][a-z0-9+.-]*:\/\//.test(text) || text.startsWith("/")) {
    const uri = text.startsWith("/") ? resolveUri("file:///", text) : text;
    const store = scope.openStore(uri);
    if (await hasObjects(store, "")) return folderPlace(store, text);
    const file = await findFile(scope, uri);
    if (file !== undefined) return file;
    throw new MergeyardError("YardModelMissing", { where, found: "no files", expected: uri });
  }
  const [area, ...rest] = text.split("/");
  const { yard } = scope;
  if (yard === undefined || rest.length === 0) return undefined;
  if (area === "incoming") return findUpload(yard, rest, scope.signal);
  if (area === "artifacts") return findArtifact(yard, rest.join("/"));
  if (area === "checkpoints") return findCheckpoint(yard, rest.join("/"));
  return undefined;
}

/** A single file that is a checkpoint by itself, such as a GGUF file; undefined when there is none at the URI. */
async function findFile({ openStore, signal }: ModelScope, uri: string): Promise<ModelPlace | undefined> {
  const [, folder = "", name = ""] = /^(.+)\/([^/]+\.[A-Za-z]+)$/.exec(uri) ?? [];
  if (!isSingleFile(name)) return undefined;
  const file = decodeURIComponent(name);
  const store = openStore(folder);
  if ((await store.head(file, { signal })) === undefined) return undefined;
  return { ...folderPlace(store, file.slice(0, file.lastIndexOf("."))), file };
}

/** A bare name: the published version behind `latest`, else the newest complete upload. */
async function findInYard(scope: ModelScope, text: string, tried: string[]): Promise<ModelPlace | undefined> {
  const { yard } = scope;
  const bare = /^([A-Za-z0-9][A-Za-z0-9._-]*)([@:][^/]*)?$/.exec(text);
  if (yard === undefined || bare === null) return undefined;
  const [, model = "", version] = bare;
  tried.push(`${yard.uri}/artifacts/${model}/`, `${yard.uri}/incoming/${model}/`);
  const listing = await listModel(yard, model);
  if (listing.versions.length > 0 && (version !== undefined || listing.channels.latest !== undefined)) {
    return findArtifact(yard, text);
  }
  if (listing.uploads.length > 0 && version === undefined) return findUpload(yard, [model], scope.signal);
  return undefined;
}

/** `NAME@VERSION_OR_CHANNEL`, `NAME:CHANNEL` or `NAME` (latest), and perhaps `/FOLDER` of another checkpoint in it. */
async function findArtifact(yard: ObjectStore, text: string): Promise<ModelPlace> {
  const [name = "", folder = "", ...deeper] = text.replace(/\/$/, "").split("/");
  const asked = parseVersionReference(deeper.length > 0 ? text : name);
  const named = asked.version;
  const isChannel =
    named !== undefined &&
    (await yard.head(layout.versionManifest(asked.model, named))) === undefined &&
    (await readChannel(yard, asked.model, named)) !== undefined;
  const reference = isChannel ? { ...asked, version: undefined, channel: named } : asked;
  const { model, prefix } = await findVersion(yard, reference);
  if (folder === "") return { store: yard, prefix, name: model, kind: "version" };
  const inside = `${prefix}${folder}/`;
  if (await hasObjects(yard, inside)) return { store: yard, prefix: inside, name: model, kind: "folder" };
  const where = { store: yard.uri, model: `artifacts/${text}` };
  throw new MergeyardError("YardModelMissing", { where, found: "no such folder", expected: inside });
}

/** `NAME@DIGEST` (first digits are enough for the folder's own name) or `NAME/FOLDER`. */
async function findCheckpoint(yard: ObjectStore, text: string): Promise<ModelPlace> {
  const match = /^([^@/]+)[@/](?:sha256:)?([0-9a-f]{16,64})\/?$/.exec(text);
  if (match === null) {
    throw new MergeyardError("YardReferenceInvalid", {
      found: `checkpoints/${text}`,
      expected: "checkpoints/NAME@DIGEST",
    });
  }
  const [, model = "", digest = ""] = match;
  const prefix = layout.checkpoint(checkName(model), digest);
  if (await hasObjects(yard, `${prefix}universal.json`))
    return { store: yard, prefix, name: model, kind: "checkpoint" };
  throw new MergeyardError("YardModelMissing", {
    where: { store: yard.uri, model: `checkpoints/${text}` },
    found: "no universal checkpoint",
    expected: `${prefix}universal.json`,
  });
}

/** `NAME` (its newest complete upload) or `NAME/UPLOAD`. */
async function findUpload(yard: ObjectStore, path: readonly string[], signal: AbortSignal): Promise<ModelPlace> {
  const [model = "", upload] = path.filter((segment) => segment !== "");
  const uploads = await listUploads(yard, model);
  const wanted = upload === undefined ? uploads : uploads.filter((entry) => entry.upload === upload);
  const where = { store: yard.uri, model };
  if (wanted.length === 0) {
    const known = uploads.map((entry) => entry.upload).join(", ");
    throw new MergeyardError("YardModelMissing", {
      where,
      found: known === "" ? "no upload" : `uploads: ${known}`,
      expected: `incoming/${path.join("/")}/`,
    });
  }
  const reasons: Incomplete[] = [];
  for (const entry of wanted) {
    const reason = await whyIncomplete(yard, entry, signal);
    if (reason === undefined) return { store: yard, prefix: entry.prefix, name: model, kind: "upload" };
    reasons.push(reason);
  }
  const [newest] = reasons;
  throw new MergeyardError("YardUploadIncomplete", {
    where: { ...where, file: newest?.cause === undefined ? wanted[0]?.prefix : newest.cause.where.file },
    found: newest?.found,
    expected: `a file ${UPLOAD_MARKER}, an index with all its shards, a lone model.safetensors or a GGUF model`,
    cause: newest?.cause,
  });
}

/** What an upload lacks, and the error of opening it where that says so. */
type Incomplete = { readonly found: string; readonly cause?: MergeyardError };

/**
 * Undefined when an upload is complete: its marker is there, with every file that a marker of ours lists; or, where no
 * push is under way, its index and every shard that it names with the size that the shard's own header says, or a
 * model.safetensors alone, or an adapter with its config, or every file of one GGUF model. Otherwise what is missing.
 */
export async function whyIncomplete(
  yard: ObjectStore,
  upload: UploadListing,
  signal: AbortSignal,
): Promise<Incomplete | undefined> {
  const names = upload.files.map((file) => file.key.slice(upload.prefix.length));
  if (names.includes(UPLOAD_MARKER)) return findMissing(yard, upload, signal);
  if (isUnfinishedPush(names)) return { found: "a push that has not been committed" };
  const tensorFiles = names.filter((name) => name.endsWith(".safetensors"));
  const [only, second] = tensorFiles;
  const isAdapter = only === "adapter_model.safetensors" && names.includes("adapter_config.json");
  const isLone = second === undefined && (only === "model.safetensors" || isAdapter);
  const isGguf =
    tensorFiles.length === 0 && gguf.recognise(upload.files.map(({ bytes }, at) => ({ name: names[at] ?? "", bytes })));
  if (!isLone && !isGguf && !names.includes("model.safetensors.index.json"))
    return { found: "no index, and no lone model.safetensors" };
  try {
    await openCheckpoint(yard, upload.prefix, signal);
    return undefined;
  } catch (cause) {
    if (isVerdict(cause)) return { found: cause.message, cause };
    throw cause;
  }
}

/** A file that the marker lists and that is not there in its size; markers of other tools list none. */
async function findMissing(
  yard: ObjectStore,
  upload: UploadListing,
  signal: AbortSignal,
): Promise<Incomplete | undefined> {
  const stored = await yard.get(`${upload.prefix}${UPLOAD_MARKER}`, ARTIFACT_LIMITS.documentBytes, { signal });
  const sizes = new Map(upload.files.map(({ key, bytes }) => [key.slice(upload.prefix.length), bytes]));
  const listed = (stored && parseUploadMarker(stored.bytes))?.files ?? [];
  const missing = listed.find(({ name, bytes }) => sizes.get(name) !== bytes);
  return missing && { found: `${missing.name} is not there in its ${missing.bytes} bytes, which the marker lists` };
}

function folderPlace(store: ObjectStore, text: string): ModelPlace {
  const last =
    text
      .split("/")
      .filter((segment) => segment !== "" && segment !== "." && segment !== "..")
      .at(-1) ?? "";
  const name = last
    .replace(/[^A-Za-z0-9._-]+/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "")
    .slice(0, 128);
  return { store, prefix: "", name: name === "" ? "model" : name, kind: "folder" };
}

/**
 * URI of a path seen from a folder's URI: `..` and `.` are resolved, characters escaped as in a URI. An absolute path
 * is one of the machine's own files.
 */
export function resolveUri(folder: string, path: string): string {
  const escaped = path.split("/").map(encodeURIComponent).join("/");
  const base = folder.replace(/[?#].*$/, "").replace(/\/*$/, "/"); // a store's URI may carry options
  const uri = new URL(escaped, path.startsWith("/") ? "file:///" : base).href;
  return uri.endsWith("/") ? uri.slice(0, -1) : uri;
}

async function hasObjects(store: ObjectStore, prefix: string): Promise<boolean> {
  for await (const _ of store.list(prefix)) return true;
  return false;
}
