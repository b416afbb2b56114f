// One instance of the app: answers on its port. GET /leak makes it keep what it should let go, a MB a second;
// GET /warm fills a cache that has a bound, fast at first and ever slower. It ends with whoever started it.
const http = require("http");

const [, port] = process.argv.slice(2);
const kept = [];
const megabyte = () => new Array(131072).fill(kept.length); // 8 bytes an element, in Node's own heap
let warmed = 0;

const acts = {
  "/leak": () => setInterval(() => kept.push(new Array(32768).fill(kept.length)), 250),
  "/warm": () => {
    const began = Date.now();
    setInterval(() => {
      const wanted = 60 * (1 - Math.exp((began - Date.now()) / 3000));
      for (; warmed < Math.floor(wanted); warmed += 1) kept.push(megabyte());
    }, 100);
  },
};

http
  .createServer((request, answer) => {
    if (acts[request.url]) acts[request.url]();
    answer.end("ok");
  })
  .listen(Number(port), "127.0.0.1");
process.stdin.on("end", () => process.exit(0)).resume();
