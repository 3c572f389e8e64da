from twisted.application.reactors import Reactor

mailgate = Reactor("mailgate", "mailgate.net.epoll", "epoll without a logging context for each event; Linux.")
