// A thread that writes one region of a large object, opened anew from the store's URI, as workers do.
import { parentPort, workerData } from "node:worker_threads";
import { openStore } from "../../stores/open.ts";
import { patterned } from "./patterned.ts";

const { uri, ticket, index } = workerData;
const store = openStore(uri, process.env);
const region = ticket.regions[index];
const content = patterned(ticket.bytes).subarray(region.offset, region.offset + region.bytes);
const writer = await store.openRegion(ticket, index);
for (let done = 0; done < content.byteLength; done += 1_000_003)
  await writer.write(content.subarray(done, done + 1_000_003));
parentPort?.postMessage(await writer.close());
