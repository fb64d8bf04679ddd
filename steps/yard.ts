// Reading a yard: its marker, its models, versions, channels and uploads. What a name in a recipe means is in
// resolve-model.ts; writing is publish.ts. The command line lists and shows with these functions.
import * as z from "zod";
import { checkName } from "../core/artifact/key.ts";
import { layout } from "../core/artifact/layout.ts";
import { matchName } from "../core/artifact/name-prefix.ts";
import { REMOVAL_NOTE } from "../core/artifact/upload.ts";
import { MergeyardError } from "../core/error.ts";
import { compareUtf8 } from "../core/utf8-order.ts";
import type { ObjectInfo, ObjectStore, OpenStore } from "../stores/store.ts";
import { encodeRecord, readRecord } from "./records.ts";
import { type ChannelRecord, channelSchema } from "./schemas.ts";

/** Key of the marker that makes a place a yard. */
const MARKER = "yard.json";

/** Version of the layout. A yard of another version is refused, never guessed at. */
const YARD_VERSION = 1;

const markerSchema = z.looseObject({ yard: z.int() });

/**
 * Makes a place a yard; `created: false` when it was one already. Throws YardPlaceNotEmpty when it holds other objects,
 * YardFormatUnknown when it is a yard of another layout.
 */
export async function initYard(store: ObjectStore): Promise<{ readonly created: boolean }> {
  if (await findMarker(store)) return { created: false };
  for await (const { key } of store.list("")) {
    throw new MergeyardError("YardPlaceNotEmpty", { where: { store: store.uri }, found: key, expected: "nothing" });
  }
  const { created } = await store.create(MARKER, encodeRecord({ yard: YARD_VERSION }));
  return { created };
}

/** Opens a yard. Throws YardMissing, YardFormatUnknown. */
export async function openYard(openStore: OpenStore, uri: string): Promise<ObjectStore> {
  const store = openStore(uri);
  if (!(await findMarker(store))) {
    throw new MergeyardError("YardMissing", { where: { store: uri }, expected: `an object ${MARKER}` });
  }
  return store;
}

async function findMarker(store: ObjectStore): Promise<boolean> {
  const marker = await readRecord(store, MARKER, markerSchema);
  if (marker === undefined) return false;
  if (marker.value.yard !== YARD_VERSION) {
    throw new MergeyardError("YardFormatUnknown", {
      where: { store: store.uri, file: MARKER },
      found: marker.value.yard,
      expected: YARD_VERSION,
    });
  }
  return true;
}

/** A published version. `channels` point to it now. */
export type VersionListing = {
  readonly version: string;
  /** Of all its files. */
  readonly bytes: number;
  readonly publishedMs: number;
  readonly channels: readonly string[];
};

/** One folder under incoming/<model>/. */
export type UploadListing = {
  readonly upload: string;
  readonly prefix: string;
  readonly files: readonly ObjectInfo[];
  readonly bytes: number;
  readonly modifiedMs: number;
};

export type ModelListing = {
  readonly model: string;
  /** Newest first. */
  readonly versions: readonly VersionListing[];
  readonly channels: Readonly<Record<string, string>>;
  /** Newest first. */
  readonly uploads: readonly UploadListing[];
};

/**
 * Every model that has an upload, a version or a channel, in name order; folders whose names cannot be models (dropped
 * by hand) are passed over. Cost: two listings of each area.
 */
export async function listModels(store: ObjectStore): Promise<readonly ModelListing[]> {
  const names = new Set<string>();
  for (const area of ["incoming/", "artifacts/", "channels/"]) {
    for await (const { key } of store.list(area)) {
      const [, model, rest] = key.split("/");
      if (model !== undefined && rest !== undefined && isName(model)) names.add(model);
    }
  }
  const models: ModelListing[] = [];
  for (const model of [...names].sort()) models.push(await listModel(store, model));
  return models;
}

function isName(text: string): boolean {
  try {
    return checkName(text) === text;
  } catch {
    return false;
  }
}

/** One model; all lists are empty when the yard does not know it. */
export async function listModel(store: ObjectStore, model: string): Promise<ModelListing> {
  const channels = await listChannels(store, model);
  const versions = await listVersions(store, model, channels);
  return { model, versions, channels: pointers(channels), uploads: await listUploads(store, model) };
}

function pointers(channels: ReadonlyMap<string, ChannelRecord>): Readonly<Record<string, string>> {
  return Object.fromEntries([...channels].map(([channel, record]) => [channel, record.version]));
}

/** The channels of a model by name, in name order. */
async function listChannels(store: ObjectStore, model: string): Promise<ReadonlyMap<string, ChannelRecord>> {
  const channels = new Map<string, ChannelRecord>();
  const prefix = layout.channel(checkName(model), "").slice(0, -".json".length);
  for await (const { key } of store.list(prefix)) {
    const channel = key.slice(prefix.length).replace(/\.json$/, "");
    const record = await readRecord(store, key, channelSchema);
    if (record !== undefined) channels.set(channel, record.value);
  }
  return channels;
}

/** Published versions, newest first; a folder without its manifest is not a version yet. */
async function listVersions(
  store: ObjectStore,
  model: string,
  channels: ReadonlyMap<string, ChannelRecord>,
): Promise<readonly VersionListing[]> {
  const folders = await listFolders(store, `artifacts/${checkName(model)}/`);
  const versions = [...folders].flatMap(([version, files]): VersionListing[] => {
    const manifest = files.find(({ key }) => key === layout.versionManifest(model, version));
    if (manifest === undefined) return [];
    const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
    const pointing = [...channels].filter(([, record]) => record.version === version).map(([channel]) => channel);
    return [{ version, bytes, publishedMs: manifest.modifiedMs, channels: pointing }];
  });
  return versions.sort((a, b) => b.publishedMs - a.publishedMs || compareUtf8(a.version, b.version));
}

/** Uploads of a model, newest first; complete or not, but none that `gc` has removed or is removing. */
export async function listUploads(store: ObjectStore, model: string): Promise<readonly UploadListing[]> {
  return (await listUploadFolders(store, model)).filter(isStanding);
}

/** What lies under incoming/<model>/, newest first. */
export async function listUploadFolders(store: ObjectStore, model: string): Promise<readonly UploadListing[]> {
  return toUploads(model, await listFolders(store, `incoming/${checkName(model)}/`));
}

/** The uploads of every model, by one listing; folders whose names cannot be models are passed over. */
export async function listAllUploads(
  store: ObjectStore,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, readonly UploadListing[]>> {
  const models = [...(await listFolders(store, "incoming/", signal))].filter(([model]) => isName(model));
  return new Map(
    models.map(([model, objects]) => {
      return [model, toUploads(model, groupByFolder(`incoming/${model}/`, objects)).filter(isStanding)];
    }),
  );
}

function isStanding({ prefix, files }: UploadListing): boolean {
  return !files.some(({ key }) => key === `${prefix}${REMOVAL_NOTE}`);
}

function toUploads(model: string, folders: ReadonlyMap<string, readonly ObjectInfo[]>): readonly UploadListing[] {
  const uploads = [...folders].map(([upload, files]) => ({
    upload,
    prefix: layout.upload(model, upload),
    files,
    bytes: files.reduce((sum, file) => sum + file.bytes, 0),
    modifiedMs: Math.max(...files.map((file) => file.modifiedMs)),
  }));
  return uploads.sort((a, b) => b.modifiedMs - a.modifiedMs || compareUtf8(b.upload, a.upload));
}

/** What lies below an area, by the folder in it; objects that are in none are passed over. */
export async function listFolders(
  store: ObjectStore,
  area: string,
  signal?: AbortSignal,
): Promise<ReadonlyMap<string, readonly ObjectInfo[]>> {
  return groupByFolder(area, await Array.fromAsync(store.list(area, { signal })));
}

function groupByFolder(area: string, objects: readonly ObjectInfo[]): ReadonlyMap<string, readonly ObjectInfo[]> {
  const inFolders = objects.filter(({ key }) => key.includes("/", area.length));
  return Map.groupBy(inFolders, ({ key }) => key.slice(area.length, key.indexOf("/", area.length)));
}

/** A version asked for: by its name or the beginning of it, by a channel, or by nothing (`latest`). */
export type VersionReference = {
  readonly model: string;
  readonly version: string | undefined;
  readonly channel: string | undefined;
};

/** MODEL, MODEL@VERSION or MODEL:CHANNEL; MODEL alone means its channel `latest`. Throws YardReferenceInvalid. */
export function parseVersionReference(text: string): VersionReference {
  const match = /^([^@:/]+)(?:@([^@:/]+)|:([^@:/]+))?$/.exec(text);
  if (match === null) {
    throw new MergeyardError("YardReferenceInvalid", {
      found: text,
      expected: "MODEL, MODEL@VERSION or MODEL:CHANNEL",
    });
  }
  const [, model = "", version, channel] = match;
  return { model: checkName(model), version, channel: version === undefined ? (channel ?? "latest") : undefined };
}

/** A published version and where it lies. */
export type VersionPlace = {
  readonly model: string;
  readonly version: string;
  /** The channel that led to it, if one did. */
  readonly channel: string | undefined;
  readonly prefix: string;
};

/**
 * Finds a published version. Throws YardModelMissing, YardVersionMissing, YardChannelMissing with what there is, and
 * YardNameAmbiguous.
 */
export async function findVersion(store: ObjectStore, reference: VersionReference): Promise<VersionPlace> {
  const { model, channel } = reference;
  const version = reference.version ?? (await readChannel(store, model, channel ?? "latest"))?.value.version;
  const place = (name: string) => ({ model, version: name, channel, prefix: layout.version(model, name) });
  if (version !== undefined && (await store.head(layout.versionManifest(model, version))) !== undefined) {
    return place(version);
  }
  const begun = reference.version === undefined ? undefined : await findByBeginning(store, model, reference.version);
  if (begun !== undefined) return place(begun);
  const listing = await listModel(store, model);
  const where = { store: store.uri, model };
  if (listing.versions.length === 0) {
    throw new MergeyardError("YardModelMissing", {
      where,
      found: "no published version",
      expected: `artifacts/${model}/`,
    });
  }
  if (version === undefined) {
    const known = Object.keys(listing.channels).join(", ") || "none";
    throw new MergeyardError("YardChannelMissing", { where, found: `channels: ${known}`, expected: channel });
  }
  const known = listing.versions
    .map((entry) => entry.version)
    .slice(0, 5)
    .join(", ");
  throw new MergeyardError("YardVersionMissing", { where, found: `versions: ${known}`, expected: version });
}

async function findByBeginning(store: ObjectStore, model: string, text: string): Promise<string | undefined> {
  const names: string[] = [];
  for await (const { key } of store.list(layout.version(model, text).slice(0, -1))) {
    const version = key.split("/")[2] ?? "";
    if (key === layout.versionManifest(model, version)) names.push(version);
  }
  return matchName(text, names, store.uri);
}

/** The channel's record and its ETag; undefined when the model has no such channel. */
export function readChannel(store: ObjectStore, model: string, channel: string) {
  return readRecord(store, layout.channel(checkName(model), checkName(channel)), channelSchema);
}
