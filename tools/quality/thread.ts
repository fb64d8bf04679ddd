// A thread that measures one model and ends.
import { parentPort, workerData } from "node:worker_threads";
import { score } from "./score.ts";

parentPort?.postMessage(await score(workerData.module, workerData.scoring));
