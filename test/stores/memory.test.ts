// The memory store, plain and through faults that the retry wrapper must hide.
import { randomUUID } from "node:crypto";
import { createFaultyStore } from "../../stores/faulty.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import { createRetryStore } from "../../stores/retry.ts";
import { createVerifyStore } from "../../stores/verify.ts";
import { conformance } from "./conformance.ts";

const remove = async () => undefined;
const open = async () => ({ store: createMemoryStore(randomUUID()), remove });

conformance({ name: "the memory store", open, hasThreads: false, modelRuns: 60 });

const policy = { attemptsMax: 12, delayMs: 0.1, delayMsMax: 1, random: () => 0.5 };
const faults = ["before", "after", "cut", "conflict", "delay"] as const;

conformance({
  name: "the memory store behind faults, retries and verification",
  async open() {
    const faulty = createFaultyStore(createMemoryStore(randomUUID()), { seed: 7, rate: 0.25, faults });
    return { store: createVerifyStore(createRetryStore(faulty.store, policy)), remove };
  },
  hasThreads: false,
  losesAnswers: true,
  modelRuns: 60,
});
