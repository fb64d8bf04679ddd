// A one-machine Ceph on loopback, only as large as an S3 gateway needs: one monitor, one storage daemon on a sparse
// file, one radosgw. Started by tools/s3-server.ts for the S3 tests; the programs come from Debian's packages. Ceph
// wants its keys and its monitor map made before anything runs, hence the order below. No manager daemon, no
// dashboard.
import { execFileSync, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdirSync, openSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** Bytes of the sparse file that holds all objects; it takes what is written to it. */
const DISK_BYTES = 20 * 1024 ** 3;
/** Seconds to wait for any one daemon; the whole start takes about 20. */
const WAIT_S = 90;

/**
 * Starts the three daemons in an empty folder and gives the gateway's address. They go on running after this process;
 * `started` learns each one's number as soon as it runs.
 */
export async function startGateway(
  folder: string,
  accessKey: string,
  secretKey: string,
  started: (pid: number) => void,
): Promise<string> {
  const [monitorPort, gatewayPort] = [await findFreePort(), await findFreePort()];
  const cluster = randomUUID();
  for (const name of ["mon", "osd", "rgw", "log", "run"]) mkdirSync(join(folder, name), { recursive: true });
  writeFileSync(join(folder, "ceph.conf"), composeConfig(folder, cluster, monitorPort, gatewayPort));
  const ceph = createRunner(folder);
  makeKeys(folder);
  const map = join(folder, "monmap");
  const address = `[v2:127.0.0.1:${monitorPort}]`;
  ceph("monmaptool", ["--create", "--fsid", cluster, "--addv", "a", address, map]);
  ceph("ceph-mon", ["--mkfs", "-i", "a", "--monmap", map, "--keyring", join(folder, "keyring")]);
  started(startDaemon(folder, "ceph-mon", ["-i", "a"]));
  const disk = randomUUID();
  await retryFor(() => ceph("ceph", ["--connect-timeout", "5", "osd", "new", disk, "0"]));
  ceph("ceph-osd", ["--mkfs", "-i", "0", "--osd-uuid", disk]);
  started(startDaemon(folder, "ceph-osd", ["-i", "0"]));
  started(startDaemon(folder, "radosgw", ["-n", "client.rgw.a"]));
  const endpoint = `http://127.0.0.1:${gatewayPort}`;
  await retryFor(async () => void (await fetch(endpoint)));
  const user = ["user", "create", "--uid", "tests", "--display-name", "tests"];
  ceph("radosgw-admin", [...user, "--access-key", accessKey, "--secret-key", secretKey]);
  return endpoint;
}

function composeConfig(folder: string, cluster: string, monitorPort: number, gatewayPort: number): string {
  return `[global]
fsid = ${cluster}
mon host = v2:127.0.0.1:${monitorPort}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = ${join(folder, "keyring")}
run dir = ${join(folder, "run")}
log file = ${join(folder, "log", "$name.log")}
admin socket = ""
crash dir = ${join(folder, "log")}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data = ${join(folder, "mon")}
osd data = ${join(folder, "osd")}
osd objectstore = bluestore
osd memory target = 1073741824
bluestore block size = ${DISK_BYTES}
rgw data = ${join(folder, "rgw")}
rgw frontends = beast endpoint=127.0.0.1:${gatewayPort}
rgw thread pool size = 64
rgw enable usage log = false
rgw enable ops log = false
`;
}

function makeKeys(folder: string): void {
  const keyring = join(folder, "keyring");
  const capabilities: Record<string, readonly string[]> = {
    "mon.": ["--cap", "mon", "allow *"],
    "client.admin": ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"],
    "osd.0": ["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"],
    "client.rgw.a": ["--cap", "mon", "allow rw", "--cap", "osd", "allow rwx"],
  };
  for (const [index, [name, caps]] of Object.entries(capabilities).entries()) {
    const create = index === 0 ? ["--create-keyring"] : [];
    execFileSync("ceph-authtool", [keyring, ...create, "--gen-key", "-n", name, ...caps], { stdio: "ignore" });
  }
}

type Runner = (program: string, args: readonly string[]) => void;

function createRunner(folder: string): Runner {
  return (program, args) => {
    const all = program === "monmaptool" ? args : ["-c", join(folder, "ceph.conf"), ...args];
    execFileSync(program, all, { stdio: ["ignore", "ignore", "pipe"], timeout: WAIT_S * 1000 });
  };
}

function startDaemon(folder: string, program: string, args: readonly string[]): number {
  const log = openSync(join(folder, "log", `${program}.out`), "a");
  const all = ["-f", "-c", join(folder, "ceph.conf"), ...args];
  const child = spawn(program, all, { detached: true, stdio: ["ignore", log, log] });
  child.unref();
  if (child.pid === undefined) throw new Error(`${program} did not start`);
  return child.pid;
}

async function retryFor(attempt: () => void | Promise<void>): Promise<void> {
  const deadline = Date.now() + WAIT_S * 1000;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(200);
    }
  }
}

function findFreePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}
