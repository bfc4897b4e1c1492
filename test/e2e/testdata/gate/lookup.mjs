// Prints its pid, and for each name what c-ares inside Node gives.
import { resolve4 } from "node:dns/promises";

console.log(`pid ${process.pid}`);
for (const name of process.argv.slice(2)) {
  try {
    console.log(`${name} ${(await resolve4(name)).join(" ")}`);
  } catch (e) {
    console.log(`${name} ${e.code === "ENOTFOUND" ? "no such name" : e.code}`);
  }
}
