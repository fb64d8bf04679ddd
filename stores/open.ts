// From a place as a user or a plan writes it to a store: a folder's path, file:///folder, s3://bucket/prefix, and
// memory://name for tests. The only place that reads store settings from an environment; edges pass theirs in.
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { checkKey } from "../core/artifact/key.ts";
import { MergeyardError } from "../core/error.ts";
import { createDirectoryStore } from "./directory.ts";
import { createLazyStore } from "./lazy.ts";
import { createMemoryStore } from "./memory.ts";
import { createRetryStore } from "./retry.ts";
import { pickDialect } from "./s3-dialect.ts";
import type { ObjectStore, OpenStore } from "./store.ts";
import { createVerifyStore } from "./verify.ts";

/** The environment variables of the process, or what stands for them. */
export type StoreEnvironment = Readonly<Record<string, string | undefined>>;

const SCHEME = /^([A-Za-z][A-Za-z0-9+.-]*):\/\//;

/**
 * The store at a place. A path, and `file:///folder`, give a durable folder store; `file:///folder?durable=false` one
 * for plain output, which is atomic but not synced to the disk and leaves nothing but the files. Throws
 * StoreUriInvalid.
 */
export function openStore(place: string, env: StoreEnvironment): ObjectStore {
  const scheme = SCHEME.exec(place)?.[1]?.toLowerCase();
  if (scheme === undefined) return openFolder(place);
  if (scheme === "file") return openFileUrl(place);
  if (scheme === "memory") return createMemoryStore(nonEmpty(place, place.slice("memory://".length)));
  if (scheme === "s3") return openBucket(place, env);
  throw invalid(place, `scheme ${scheme}`);
}

/** `openStore` that gives the same store for the same place, so that its caches and connections are shared. */
export function createStoreOpener(env: StoreEnvironment): OpenStore {
  const stores = new Map<string, ObjectStore>();
  return (place) => {
    const store = stores.get(place) ?? openStore(place, env);
    stores.set(place, store);
    return store;
  };
}

function openFolder(path: string): ObjectStore {
  if (path.includes("\0")) throw invalid(path, "a NUL character");
  return createDirectoryStore(resolve(nonEmpty(path, path)), { durable: true });
}

function openFileUrl(place: string): ObjectStore {
  const url = parseUrl(place);
  const durable = url.searchParams.get("durable") ?? "true";
  const isKnown = [...url.searchParams.keys()].every((name) => name === "durable") && url.hash === "";
  if (!isKnown || (durable !== "true" && durable !== "false")) throw invalid(place, `${url.search}${url.hash}`);
  return createDirectoryStore(toPath(place, url), { durable: durable === "true" });
}

const BUCKET = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/(.*))?$/s;

/**
 * MERGEYARD_S3_ENDPOINT, or AWS's own AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL, name another server; then
 * MERGEYARD_S3_DIALECT may say which kind it is. Everything else (credentials, profile) the client reads itself.
 */
function openBucket(place: string, env: StoreEnvironment): ObjectStore {
  const [, bucket, prefix = ""] = BUCKET.exec(place) ?? [];
  if (bucket === undefined) throw invalid(place, "no bucket's name");
  const endpoint = env.MERGEYARD_S3_ENDPOINT || env.AWS_ENDPOINT_URL_S3 || env.AWS_ENDPOINT_URL || undefined;
  if (endpoint !== undefined && !/^https?:$/.test(URL.parse(endpoint)?.protocol ?? "")) {
    throw invalid(place, `endpoint ${endpoint}`);
  }
  const dialect = pickDialect(endpoint, env.MERGEYARD_S3_DIALECT);
  const region = env.AWS_REGION || env.AWS_DEFAULT_REGION || (endpoint === undefined ? undefined : "us-east-1");
  const path = prefix.replace(/\/$/, "");
  if (path !== "") checkKey(path);
  const make = async () => {
    const { createS3Store } = await import("./s3.ts");
    return createS3Store({ bucket, prefix: path, dialect, endpoint, region });
  };
  const uri = `s3://${bucket}${path === "" ? "" : `/${path}`}`;
  const store = createRetryStore(createLazyStore({ uri, isLocal: false }, make));
  return dialect.isVerified ? createVerifyStore(store) : store;
}

function parseUrl(place: string): URL {
  const url = URL.parse(place);
  if (url === null) throw invalid(place, "no URL");
  return url;
}

function toPath(place: string, url: URL): string {
  try {
    return fileURLToPath(url);
  } catch (cause) {
    throw invalid(place, "no local path", cause);
  }
}

function nonEmpty(place: string, text: string): string {
  if (text === "") throw invalid(place, "nothing");
  return text;
}

function invalid(place: string, found: string, cause?: unknown): MergeyardError {
  return new MergeyardError("StoreUriInvalid", { where: { store: place.slice(0, 500) }, found, cause });
}
