// The same in C++: the headers compile there, without a warning, and link.
#include <proa/proa.h>

#include <cstdio>
#include <cstring>

namespace
{

struct Receiver {
	proa_op op;
	char word[16];
	bool came;
};

void on_received(proa_op *op, const proa_completion *c)
{
	auto *receiver = static_cast<Receiver *>(op->data);

	receiver->came = c->result == 9 && std::strcmp(receiver->word, "delivered") == 0;
}

} // namespace

int main()
{
	Receiver receiver = {};
	proa_op send;
	proa_port *port;
	proa_handle pair[2];

	if (proa_port_open(nullptr, &port) < 0 || proa_pair(port, pair) < 0)
		return 1;
	proa_op_init(&receiver.op, port, &receiver);
	proa_prep_recv(&receiver.op, pair[0], receiver.word, sizeof(receiver.word) - 1, 0);
	proa_submit(&receiver.op, on_received);
	proa_op_init(&send, port, nullptr);
	proa_prep_send(&send, pair[1], "delivered", 9, 0);
	proa_submit(&send, nullptr);
	proa_run(port);
	proa_discard(port, pair[0]);
	proa_discard(port, pair[1]);
	proa_port_close(port);
	if (receiver.came)
		std::puts("delivered in C++");
	return receiver.came ? 0 : 1;
}
