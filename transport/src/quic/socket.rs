//! The network's sockets: UDP for QUIC, TCP on the same port for tripwires.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use socket2::{Domain, Socket, Type};

use super::{BindError, Limits};
use crate::tripwire;

/// How often a free UDP port may turn out to be taken in TCP before we give up.
const PORT_ATTEMPTS: u32 = 16;

/// Binds both sockets; must be called within a tokio runtime.
pub(super) fn bind(
    listen: SocketAddr,
    limits: &Limits,
) -> Result<(UdpSocket, tripwire::Listener, SocketAddr), BindError> {
    let mut attempts = 1;
    loop {
        let udp = bind_udp(listen, limits)
            .map_err(|source| BindError::Socket { operation: "bind the UDP socket", source })?;
        let local_addr = udp
            .local_addr()
            .map_err(|source| BindError::Socket { operation: "read the UDP port", source })?;
        match tripwire::Listener::bind(local_addr) {
            Ok(tripwires) => return Ok((udp, tripwires, local_addr)),
            Err(source) => {
                let taken = source.kind() == io::ErrorKind::AddrInUse;
                if listen.port() != 0 || !taken || attempts == PORT_ATTEMPTS {
                    return Err(BindError::Socket { operation: "bind the TCP socket", source });
                }
                attempts += 1;
            }
        }
    }
}

fn bind_udp(listen: SocketAddr, limits: &Limits) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, None)?;
    if listen.is_ipv6() && listen.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_recv_buffer_size(limits.udp_buffer_bytes)?;
    socket.set_send_buffer_size(limits.udp_buffer_bytes)?;
    let granted = socket.recv_buffer_size()?;
    if granted < limits.udp_buffer_bytes {
        tracing::info!(
            granted,
            wanted = limits.udp_buffer_bytes,
            "the kernel caps UDP buffers: raise net.core.rmem_max and wmem_max"
        );
    }
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    Ok(socket.into())
}
