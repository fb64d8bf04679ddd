// Models that Hugging Face's tools have downloaded to this machine, under the names that recipes have for them. They
// are read where they lie, in the cache's own folders; nothing is ever downloaded. Called by resolve-model.ts.
import type { ObjectStore, OpenStore } from "../stores/store.ts";

/** Bytes of a file that names a commit. */
const REF_BYTES_MAX = 256;

type Reference = { readonly repository: string; readonly revision: string };

/** `ORG/NAME`, perhaps `@REVISION`; undefined for anything that is no name of the hub's. */
export function parseHubName(text: string): Reference | undefined {
  const [, repository, revision = "main"] =
    /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*)(?:@([\w.-]+(?:\/[\w.-]+)*))?$/.exec(text) ?? [];
  return repository === undefined || revision.split("/").includes("..") ? undefined : { repository, revision };
}

/**
 * The folder of a model in the cache at the URI `cache`: the snapshot that the revision's name stands for, or of the
 * commit itself. Undefined when it was not downloaded. Throws what the store throws.
 */
export async function findInHubCache(
  openStore: OpenStore,
  cache: string,
  { repository, revision }: Reference,
  signal: AbortSignal,
): Promise<ObjectStore | undefined> {
  const folder = `${cache}/models--${repository.replace("/", "--")}`;
  const named = await openStore(folder).get(`refs/${revision}`, REF_BYTES_MAX, { signal });
  const commit = named === undefined ? revision : new TextDecoder().decode(named.bytes).trim();
  if (!/^[0-9a-f]{6,64}$/.test(commit)) return undefined;
  const store = openStore(`${folder}/snapshots/${commit}`);
  for await (const _ of store.list("", { signal })) return store;
  return undefined;
}
