// The folder store: durable, not durable, without hard links, and through faults.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createDirectoryStore } from "../../stores/directory.ts";
import { createFaultyStore } from "../../stores/faulty.ts";
import { createRetryStore } from "../../stores/retry.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { conformance, type OpenedStore } from "./conformance.ts";

async function openIn(make: (folder: string) => ObjectStore): Promise<OpenedStore> {
  const folder = await mkdtemp(join(tmpdir(), "mergeyard-store-"));
  return { store: make(join(folder, "yard")), remove: () => rm(folder, { recursive: true }) };
}

conformance({
  name: "the folder store",
  open: () => openIn((folder) => createDirectoryStore(folder, { durable: true })),
  hasThreads: true,
  modelRuns: 10,
});

conformance({
  name: "the folder store for plain output",
  open: () => openIn((folder) => createDirectoryStore(folder, { durable: false })),
  hasThreads: true,
  modelRuns: 20,
});

conformance({
  name: "the folder store without hard links",
  open: () => openIn((folder) => createDirectoryStore(folder, { durable: false, hardLinks: false })),
  hasThreads: true,
  modelRuns: 10,
});

const policy = { attemptsMax: 12, delayMs: 0.1, delayMsMax: 1, random: () => 0.5 };
const faults = ["before", "after", "cut", "conflict", "delay"] as const;

conformance({
  name: "the folder store behind faults and retries",
  open: () =>
    openIn((folder) => {
      const store = createDirectoryStore(folder, { durable: false });
      return createRetryStore(createFaultyStore(store, { seed: 3, rate: 0.2, faults }).store, policy);
    }),
  hasThreads: true,
  losesAnswers: true,
  modelRuns: 10,
});
