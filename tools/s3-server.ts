// A real S3 server for the tests of stores/s3.ts: `start` prints its settings as shell lines, `env` prints them again,
// `stop` ends it and removes its data. Loopback only, random keys. It is Ceph's radosgw, because that honours the
// conditional writes we depend on and can be installed from Debian:
//
//   apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common
//   eval "$(node tools/s3-server.ts start)" && npm test; node tools/s3-server.ts stop
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { CreateBucketCommand, S3Client } from "@aws-sdk/client-s3";
import { startGateway } from "./ceph.ts";

type Settings = Readonly<Record<string, string>>;
type State = { readonly settings: Settings; readonly pids: readonly number[] };

const folder = process.env.MERGEYARD_TEST_S3_FOLDER ?? join(tmpdir(), `mergeyard-s3-${process.getuid?.() ?? 0}`);
const stateFile = join(folder, "server.json");

async function start(): Promise<void> {
  if (existsSync(folder)) await stop();
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  try {
    print(await startServer());
  } catch (error) {
    // Whatever was started must not outlive a start that failed; its logs are the only thing worth seeing.
    console.error(readLogs(), error instanceof Error ? error.message : error);
    console.error("needs Debian's radosgw ceph-mon ceph-osd ceph-common (apt-get install --no-install-recommends)");
    await stop();
    process.exitCode = 1;
  }
}

async function startServer(): Promise<Settings> {
  const [accessKey, secretKey, bucket] = [randomBytes(10).toString("hex"), randomBytes(20).toString("hex"), "tests"];
  const pids: number[] = [];
  const save = (settings: Settings) => writeFileSync(stateFile, JSON.stringify({ settings, pids }), { mode: 0o600 });
  const endpoint = await startGateway(folder, accessKey, secretKey, (pid) => {
    pids.push(pid);
    save({});
  });
  const settings = {
    MERGEYARD_TEST_S3_ENDPOINT: endpoint,
    MERGEYARD_TEST_S3_BUCKET: bucket,
    AWS_ACCESS_KEY_ID: accessKey,
    AWS_SECRET_ACCESS_KEY: secretKey,
    AWS_REGION: "us-east-1",
  };
  const credentials = { accessKeyId: accessKey, secretAccessKey: secretKey };
  const client = new S3Client({ endpoint, region: settings.AWS_REGION, forcePathStyle: true, credentials });
  await client.send(new CreateBucketCommand({ Bucket: bucket }));
  client.destroy();
  save(settings);
  return settings;
}

/** The last lines of each daemon's log. */
function readLogs(): string {
  const names = existsSync(join(folder, "log")) ? readdirSync(join(folder, "log")) : [];
  return names.map((name) => `${name}:\n${readFileSync(join(folder, "log", name), "utf8").slice(-800)}`).join("\n");
}

async function stop(): Promise<void> {
  for (const pid of readState()?.pids ?? []) await endProcess(pid);
  rmSync(folder, { recursive: true, force: true });
}

function env(): void {
  const state = readState();
  if (state === undefined) {
    console.error(`no server is running (nothing in ${folder}); start one with: node tools/s3-server.ts start`);
    process.exitCode = 1;
  } else {
    print(state.settings);
  }
}

function print(settings: Settings): void {
  for (const [name, value] of Object.entries(settings)) console.log(`export ${name}=${value}`);
}

function readState(): State | undefined {
  return existsSync(stateFile) ? JSON.parse(readFileSync(stateFile, "utf8")) : undefined;
}

/** Ends a daemon of ours: asks, waits, then insists. A number that is another program's by now is left alone. */
async function endProcess(pid: number): Promise<void> {
  for (let attempt = 0; attempt < 100 && isOurs(pid); attempt++) {
    if (attempt === 0 || attempt === 50) process.kill(pid, attempt === 0 ? "SIGTERM" : "SIGKILL");
    await sleep(100);
  }
}

function isOurs(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(folder);
  } catch {
    return false;
  }
}

const commands: Record<string, () => void | Promise<void>> = { start, stop, env };
const command = commands[process.argv[2] ?? ""];
if (command === undefined) {
  console.error("usage: node tools/s3-server.ts start|stop|env");
  process.exitCode = 2;
} else {
  await command();
}
