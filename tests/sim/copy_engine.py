"""A tiny design with the core's ports: copies bursts of four 32-bit beats. `bug` breaks one rule of AXI."""

__all__ = ["BEATS", "BUGS", "BURSTS", "CONTROL", "DST", "ERRORS", "SRC", "copy_engine"]

#: Registers: source, destination, bursts to copy; CONTROL starts when written, bit 0 is set while it runs;
#: error responses.
SRC, DST, BURSTS, CONTROL, ERRORS = 0, 4, 8, 12, 16
BEATS = 4
#: Bug, and a word of the message that the bench must give.
BUGS = {
    "drop_valid": "ARVALID fell",
    "unstable": "payload of W",
    "early_last": "WLAST",
    "narrow": "AWSIZE",
    "reset_valid": "during reset",
    "wrap": "ARBURST",
}


def copy_engine(bug: str = "") -> dict[str, str]:
    """Verilog sources with top module `copier`."""
    last = "2" if bug == "early_last" else "3"
    return {
        "copier.v": f"""
module copier(clk, rst, axi__awaddr, axi__awlen, axi__awsize, axi__awburst, axi__awvalid, axi__awready,
    axi__wdata, axi__wstrb,
    axi__wlast, axi__wvalid, axi__wready, axi__bid, axi__bresp, axi__bvalid, axi__bready, axi__araddr,
        axi__arlen, axi__arsize,
    axi__arburst, axi__arvalid, axi__arready, axi__rid, axi__rdata, axi__rresp, axi__rlast, axi__rvalid,
        axi__rready,
    csr__awaddr, csr__awvalid, csr__awready, csr__wdata, csr__wstrb, csr__wvalid, csr__wready, csr__bresp,
        csr__bvalid, csr__bready,
    csr__araddr, csr__arvalid, csr__arready, csr__rdata, csr__rresp, csr__rvalid, csr__rready,
    trace__load__valid, trace__load__addr, trace__load__data, trace__load__mask, trace__done__load);
  input clk; input rst;
  output [31:0] axi__awaddr; output [7:0] axi__awlen; output [2:0] axi__awsize; output [1:0] axi__awburst;
  output axi__awvalid; input axi__awready;
  output [31:0] axi__wdata; output [3:0] axi__wstrb; output axi__wlast; output axi__wvalid; input axi__wready;
  input axi__bid; input [1:0] axi__bresp; input axi__bvalid; output axi__bready;
  output [31:0] axi__araddr; output [7:0] axi__arlen; output [2:0] axi__arsize; output [1:0] axi__arburst;
  output axi__arvalid; input axi__arready;
  input axi__rid; input [31:0] axi__rdata; input [1:0] axi__rresp; input axi__rlast; input axi__rvalid;
      output axi__rready;
  input [7:0] csr__awaddr; input csr__awvalid; output csr__awready; input [31:0] csr__wdata;
      input [3:0] csr__wstrb;
  input csr__wvalid; output csr__wready; output [1:0] csr__bresp; output csr__bvalid; input csr__bready;
  input [7:0] csr__araddr; input csr__arvalid; output csr__arready; output [31:0] csr__rdata;
      output [1:0] csr__rresp;
  output csr__rvalid; input csr__rready;
  output trace__load__valid; output [31:0] trace__load__addr; output [31:0] trace__load__data;
      output [3:0] trace__load__mask;
  output trace__done__load;

  reg [31:0] src, dst, left, errors, rdata;
  reg [31:0] buffer [0:3];
  reg [2:0] state;
  reg [1:0] beat;
  reg bvalid, rvalid, flicker;
  localparam IDLE = 0, AR = 1, R = 2, AW = 3, W = 4, B = 5;

  wire write = csr__awvalid & csr__wvalid & (~bvalid | csr__bready);
  wire read = csr__arvalid & (~rvalid | csr__rready);
  assign csr__awready = write; assign csr__wready = write; assign csr__bvalid = bvalid;
  assign csr__bresp = 0; assign csr__arready = read; assign csr__rvalid = rvalid; assign csr__rdata = rdata;
  assign csr__rresp = 0;

  assign axi__araddr = src; assign axi__arlen = 3; assign axi__arsize = 2;
  assign axi__arburst = {"2" if bug == "wrap" else "1"};
  assign axi__arvalid = (state == AR){" & flicker" if bug == "drop_valid" else ""}
    {" | rst" if bug == "reset_valid" else ""};
  assign axi__rready = state == R;
  assign axi__awaddr = dst; assign axi__awlen = 3; assign axi__awsize = {"1" if bug == "narrow" else "2"};
  assign axi__awburst = 1; assign axi__awvalid = state == AW;
  assign axi__wdata = buffer[beat]{" ^ {31'b0, flicker}" if bug == "unstable" else ""};
      assign axi__wstrb = 4'b1111;
  assign axi__wlast = beat == {last}; assign axi__wvalid = state == W; assign axi__bready = state == B;
  assign trace__load__valid = axi__rvalid & axi__rready; assign trace__load__addr = dst + {{28'b0, beat,
      2'b0}};
  assign trace__load__data = axi__rdata; assign trace__load__mask = 4'b0111;
  assign trace__done__load = axi__bvalid & axi__bready;

  always @(posedge clk) begin
    flicker <= ~flicker;
    if (csr__bready) bvalid <= 0;
    if (csr__rready) rvalid <= 0;
    if (read) begin
      rvalid <= 1;
      case (csr__araddr) 0: rdata <= src; 4: rdata <= dst; 8: rdata <= left; 12: rdata <= {{31'b0,
          state != IDLE}};
        default: rdata <= errors; endcase
    end
    if (write) begin
      bvalid <= 1;
      case (csr__awaddr) 0: src <= csr__wdata; 4: dst <= csr__wdata; 8: left <= csr__wdata;
        12: state <= AR; default: errors <= csr__wdata; endcase
    end
    if (axi__rvalid & axi__rready) begin
      buffer[beat] <= axi__rdata; beat <= beat + 1;
      if (axi__rresp != 0) errors <= errors + 1;
      if (axi__rlast) state <= AW;
    end
    if (axi__arvalid & axi__arready) state <= R;
    if (axi__awvalid & axi__awready) state <= W;
    if (axi__wvalid & axi__wready) begin
      beat <= beat + 1;
      if (beat == 3) state <= B;
    end
    if (axi__bvalid & axi__bready) begin
      if (axi__bresp != 0) errors <= errors + 1;
      src <= src + 16; dst <= dst + 16; left <= left - 1;
      state <= left == 1 ? IDLE : AR;
    end
    if (rst) begin state <= IDLE; beat <= 0; bvalid <= 0; rvalid <= 0; errors <= 0; flicker <= 0; end
  end
endmodule
"""
    }
