// Opens the device, which it can do once. Node has no ioctl: tests/emulator/machine/test_programs.py.
const fs = require("fs");
const device = fs.openSync("/dev/liveupdate", "r+");
try {
  fs.openSync("/dev/liveupdate", "r+");
  console.log("opened twice");
} catch (error) {
  console.log(error.code === "EBUSY" ? "the device" : error.code);
}
fs.closeSync(device);
